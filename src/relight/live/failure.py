"""Which load an exception comes from: the file, the class and the arguments, from the frames that it passed through."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from relight.core.errors import RelightError
from relight.core.target import IntentCall
from relight.facts.versions import at_least
from relight.reader import open_checkpoint

_MOST_FILES = 50  # that a function may name, and that are looked into
_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".tar", ".safetensors")


@dataclass(slots=True, kw_only=True)
class FailedLoad:
    """A load that raised.

    Attributes:
        path: The file.
        call: How it was loaded.
        cls: Class of what it was loaded into; None where that is not known.
        model: What it was loaded into, where it was there.
        strict: ``strict`` of the call.
        weights_only: ``weights_only`` of the call.
        map_location: ``map_location`` of the call, where that was a name.
        hparams_file: ``hparams_file`` of the call.
        init: Arguments for the constructor.
    """

    path: str
    call: IntentCall
    cls: type | None = None
    model: Any = None
    strict: bool | None = None
    weights_only: bool | None = None
    map_location: str | None = None
    hparams_file: str | None = None
    init: Mapping[str, object] = field(default_factory=dict)


def failed_load(error: BaseException) -> FailedLoad | None:
    """The load that an exception comes from, or one that it was raised from; None if it comes from none."""
    known: BaseException | None = error
    seen: set[int] = set()
    while known is not None and id(known) not in seen:
        seen.add(id(known))
        frames = [frame for frame, _ in traceback.walk_tb(known.__traceback__)]
        for find in (_of_lightning, _of_the_trainer, _of_torch, _of_a_state_dict):
            found = find(frames)
            if found is not None:
                return found
        known = known.__cause__ or (None if known.__suppress_context__ else known.__context__)
    return None


def built_model(error: BaseException, cls: type) -> Any:
    """The model that was to take the weights when ``load_from_checkpoint`` failed; None if there was none yet."""
    return _built([frame for frame, _ in traceback.walk_tb(error.__traceback__)], cls)


# ---------------------------------------------------------------- the calls


def _built(frames: list[FrameType], cls: type) -> Any:
    for frame in _named(frames, "core/saving.py", "_load_state", "_load_model_state"):
        values = _values(frame)
        for name in ("obj", "model"):  # of Lightning since 1.8, and before
            if isinstance(values.get(name), cls):
                return values[name]
    return None


def _of_lightning(frames: list[FrameType]) -> FailedLoad | None:
    # The innermost: before 1.8 there is only the other, whose arguments have the same names.
    for frame in _named(frames, "core/saving.py", "_load_from_checkpoint", "load_from_checkpoint"):
        values = _values(frame)
        path, cls = _path(values.get("checkpoint_path")), values.get("cls")
        if path is None or not isinstance(cls, type):
            continue
        return FailedLoad(
            path=path,
            call=IntentCall.LOAD,
            cls=cls,
            model=_built(frames, cls),
            strict=_flag(values.get("strict")),
            weights_only=_flag(values.get("weights_only")),
            map_location=_device(values.get("map_location")),
            hparams_file=_path(values.get("hparams_file")),
            init=dict(values.get("kwargs") or {}),
        )
    return None


def _of_the_trainer(frames: list[FrameType]) -> FailedLoad | None:
    for frame in _named(frames, "connectors/checkpoint_connector.py"):
        connector = _values(frame).get("self")
        path = _path(getattr(connector, "_ckpt_path", None) or _values(frame).get("checkpoint_path"))
        model = getattr(getattr(connector, "trainer", None), "lightning_module", None)
        if path is not None and model is not None:
            given = _flag(_values(frame).get("weights_only"))
            return FailedLoad(path=path, call=IntentCall.RESUME, cls=type(model), model=model, weights_only=given)
    return None


def _of_torch(frames: list[FrameType]) -> FailedLoad | None:
    for frame in _named(frames, "torch/serialization.py", "load"):
        values = _values(frame)
        given = values.get("f")
        path = _path(given) or _path(getattr(given, "name", None))
        if path is None:
            continue
        # Since 2.6 what was not passed is True by now, before it is False: what was passed so cannot be told from that.
        since = at_least(getattr(sys.modules.get("torch"), "__version__", None), "2.6")
        given_so = _flag(values.get("weights_only"))
        weights_only = None if given_so is (since is not False) else given_so
        location = _device(values.get("map_location"))
        return FailedLoad(path=path, call=IntentCall.WEIGHTS, weights_only=weights_only, map_location=location)
    return None


def _of_a_state_dict(frames: list[FrameType]) -> FailedLoad | None:
    """A plain ``model.load_state_dict(...)``: the file is one that the caller names, and that has these very keys."""
    calls = [
        i for i, f in enumerate(frames) if f.f_code.co_name == "load_state_dict" and _in(f, "nn/modules/module.py")
    ]
    if not calls:
        return None
    values = _values(frames[calls[0]])
    model, state = values.get("self"), values.get("state_dict")
    if not isinstance(state, Mapping):
        return None
    keys = {k for k in state if isinstance(k, str)}
    for path in _files_named(frames[: calls[0]]):
        try:
            read = open_checkpoint(path)
        except RelightError:
            continue
        if keys and keys == {t.key for t in read.tensors}:
            strict = _flag(values.get("strict"))
            strict = None if strict is True else strict
            return FailedLoad(path=path, call=IntentCall.WEIGHTS, cls=type(model), model=model, strict=strict)
    return None


# ---------------------------------------------------------------- frames


def _named(frames: list[FrameType], file: str, *functions: str) -> Iterator[FrameType]:
    """Frames of a library's functions, or of all of a file, the innermost first."""
    for frame in reversed(frames):
        if _in(frame, file) and (not functions or frame.f_code.co_name in functions):
            yield frame


def _in(frame: FrameType, file: str) -> bool:
    return frame.f_code.co_filename.replace(os.sep, "/").endswith(f"/{file}")


def _values(frame: FrameType) -> dict[str, Any]:
    """The variables of a frame; nothing of them is kept by it."""
    values = frame.f_locals
    out = dict(values)
    if type(values) is dict and values is not frame.f_globals:
        values.clear()  # before Python 3.13 it is a copy that the frame keeps, with all that was read
    return out


def _files_named(frames: list[FrameType]) -> Iterator[str]:
    """Files that a program's functions name, in their variables or in their text, the innermost function first."""
    seen: set[str] = set()
    for frame in reversed(frames):
        if "site-packages" in frame.f_code.co_filename:
            continue
        for value in (*_texts(_values(frame).values()), *_texts(frame.f_globals.values()), *_constants(frame.f_code)):
            if value in seen or len(seen) >= _MOST_FILES:
                continue
            if value.lower().endswith(_SUFFIXES) and os.path.isfile(value):
                seen.add(value)
                yield value


def _texts(values: Iterable[Any]) -> list[str]:
    return [text for v in list(values) if (text := _path(v)) is not None]


def _constants(code: CodeType) -> list[str]:
    return [c for c in code.co_consts if isinstance(c, str)]


# ---------------------------------------------------------------- values


def _path(value: Any) -> str | None:
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        return text if isinstance(text, str) and text else None
    return None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _device(value: Any) -> str | None:
    device = getattr(sys.modules.get("torch"), "device", None)
    if isinstance(device, type) and isinstance(value, device):
        return str(value)
    return value if isinstance(value, str) else None

"""The real ``load_from_checkpoint``, in the user's own process: never with an unpickler that runs what a file says."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from relight.core.errors import SourceError, UsageError
from relight.core.target import Target
from relight.reader import installed, remote
from relight.reader.source import StreamSource, open_local

if TYPE_CHECKING:
    from relight.reader.source import ByteSource
    from relight.repair.sinks import Spliced

# Classes of the caller's, or functions; under the name that a file has for them where that is another.
Types: TypeAlias = "Iterable[type | tuple[Any, str]] | Mapping[str, Any]"

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class RealLoad:
    """One call of ``load_from_checkpoint``, which can be made again with another file.

    Args:
        cls: Class of the model.
        arguments: Of the call, besides the file.
        types: What the safe unpickler is to accept besides what it accepts anyway.

    Raises:
        UsageError: The class has no such method, or something in ``types`` is no class.
    """

    def __init__(self, cls: type, arguments: Mapping[str, object], types: Types = ()) -> None:
        self._call: Any = getattr(cls, "load_from_checkpoint", None)
        if self._call is None:
            raise UsageError(f"{cls.__name__} has no load_from_checkpoint", "It loads LightningModules.")
        self._cls = cls
        self._arguments = dict(arguments)
        self._types = _listed(types)
        self._force = False
        if "weights_only" not in self._arguments:
            if "weights_only" in inspect.signature(self._call).parameters:
                self._arguments["weights_only"] = True  # Lightning's own default is False for URLs
            else:
                self._force = True

    @property
    def type_names(self) -> tuple[str, ...]:
        """What a file calls the types, as ``module.name``."""
        return tuple(name for _, name in self._types)

    @property
    def weights_only(self) -> bool | None:
        """What `check` has to be asked for: None where the call does what it does by default, or what the caller says."""
        return True if self._force else None

    def model(self, file: str | Spliced) -> Any:
        """Load a file, or what is given in place of one."""
        with self._allowed(), _careful() if self._force else contextlib.nullcontext():
            return self._call(file, **self._arguments)

    def model_of(self, checkpoint: Mapping[str, Any], name: str) -> Any:
        """Do what the call does with what it has read, for objects that come from elsewhere."""
        base = next((c for c in self._cls.__mro__ if c.__name__ in ("LightningModule", "LightningDataModule")), None)
        package = "pytorch_lightning" if base is None else base.__module__.partition(".core")[0]
        saving: Any = sys.modules.get(f"{package}.core.saving")
        if saving is None or not hasattr(saving, "pl_load"):
            raise UsageError("this Lightning has no way to load it from a folder")
        real = saving.pl_load
        saving.pl_load = lambda *_, **__: checkpoint
        try:
            return self._call(name, **self._arguments)
        finally:
            saving.pl_load = real

    @contextlib.contextmanager
    def _allowed(self) -> Iterator[None]:
        if not self._types:
            yield
            return
        import torch

        allow = getattr(torch.serialization, "safe_globals", None)
        if allow is None:
            raise UsageError(f"types= needs torch 2.5 or newer, this is {torch.__version__}")
        entries = [value if _name_of(value) == name else (value, name) for value, name in self._types]
        with allow(entries):
            yield


@contextlib.contextmanager
def _careful() -> Iterator[None]:
    """Lightning before 2.6 passes nothing on, and torch before 2.6 is not careful unasked; since 1.13 it can be told."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _listed(types: Types) -> list[tuple[Any, str]]:
    """(class or function, what a file calls it)."""
    if isinstance(types, Mapping):
        return [(value, str(name)) for name, value in types.items()]
    out: list[tuple[Any, str]] = []
    for value in types:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
            out.append(value)
        elif callable(value) and hasattr(value, "__qualname__"):
            out.append((value, _name_of(value)))
        else:
            raise UsageError(f"types= takes classes, not {value!r}")
    return out


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def let_go(error: BaseException) -> None:
    """Give back what a failed load has read: its frames hold the checkpoint, and perhaps a model."""
    known: BaseException | None = error
    while known is not None:
        traceback.clear_frames(known.__traceback__)
        known = known.__cause__ or known.__context__
    gc.collect()


def target_here(cls: type, model: object = None) -> Target:
    """What is known of a class without another process.

    Args:
        cls: The class.
        model: An object of it; None where there is none, and then nothing is known of its tensors.
    """
    import torch

    from relight.live import child
    from relight.live.capture import init_of, spec_of
    from relight.live.named import argument_of

    describing: Any = child
    names = describing.Names(os.getcwd())
    try:
        argument = argument_of(cls)
    except UsageError:  # it is of a notebook, or of a function
        argument = f"{cls.__module__}:{cls.__qualname__}"
    environment = installed.current_environment()
    init = init_of(describing.init_signature(cls, names))
    about = describing.describe_class(cls, names)
    spec = None
    if isinstance(model, torch.nn.Module):
        described = dict(describing.describe(model, names, torch), passed=(), dropped=(), approximated=())
        spec = spec_of(argument, described, init, environment)
    return Target(
        argument=argument,
        spec=spec,
        init=init,
        class_name=about["class_name"],
        class_kind=about["kind"],
        file=about["file"],
        environment=environment,
    )


def folder_content(path: str) -> dict[str, Any]:
    """What a folder of ``torch.distributed.checkpoint`` holds, put together by Lightning.

    Its ``.metadata`` is unpickled by torch without care: ask for this only where all its names are known to be harmless.

    Raises:
        UsageError: The installed Lightning cannot do that.
    """
    from pathlib import Path

    try:
        from lightning.fabric.utilities.load import _load_distributed_checkpoint
        from lightning.pytorch.utilities.consolidate_checkpoint import _format_checkpoint
    except ImportError:
        raise UsageError("only Lightning 2.3 and newer put the parts of such a folder together") from None
    with _careful():
        checkpoint: dict[str, Any] = _load_distributed_checkpoint(Path(path))
    return _format_checkpoint(checkpoint) if "model" in checkpoint else checkpoint


def downloaded(url: str) -> str:
    """The file in torch's cache that Lightning made of an ``http`` URL when it loaded it.

    Raises:
        SourceError: There is none.
    """
    from urllib.parse import urlparse

    import torch

    name = os.path.basename(urlparse(url).path)
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    if not name or not os.path.isfile(path):
        raise SourceError(url, "it was not downloaded")
    return path


def opened(path: str) -> ByteSource:
    """A file, or what fsspec finds behind a URL, read by ranges and never kept.

    Raises:
        SourceError: It cannot be opened.
    """
    if not remote.is_url(path):
        return open_local(path)
    try:
        import fsspec

        files, inside = fsspec.core.url_to_fs(path)
        return StreamSource(files.open(inside, "rb"), path)
    except Exception as error:  # every backend has exceptions of its own
        raise SourceError(path, f"{type(error).__name__}: {error}") from None

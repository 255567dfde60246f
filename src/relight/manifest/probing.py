"""The probe of a training run: which module gets which form of input, and what it answers when it is saved."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from relight.manifest import behaviour
from relight.manifest.reasons import reason_of

# Saving a gigabyte takes seconds: what is asked at each save may take a twentieth of that.
_SLOW = 0.25
_COMPARED = 64_000_000  # bytes
_WHOLE = ("SingleDeviceStrategy", "SingleDevicePlugin", "DDPStrategy")


class Watch:
    """Notes the first call of the model, or of one of its children where it is not called itself, in one batch.

    Args:
        torch: The imported module.
    """

    def __init__(self, torch: ModuleType) -> None:
        self.torch = torch
        self.path: str | None = None
        self.form: dict[str, Any] | None = None
        self.slow: float | None = None
        self.reason: str | None = None
        self._handles: list[Any] = []
        self._forward: Any = None

    def start(self, model: Any) -> None:
        """Watch until `stop`."""
        self._forward = model.forward
        for path, module in (("", model), *model.named_children()):
            if hasattr(module, "_orig_mod"):  # a hook would make the compiler start again
                continue
            self._handles.append(self._hook(path, module))

    def _hook(self, path: str, module: Any) -> Any:
        try:
            return module.register_forward_pre_hook(lambda m, a, k: self._seen(m, path, a, k), with_kwargs=True)
        except TypeError:  # torch before 2.0
            return module.register_forward_pre_hook(lambda m, a: self._seen(m, path, a, {}))

    def _seen(self, module: Any, path: str, args: Any, kwargs: Any) -> None:
        """Called from inside the user's forward, where no step of the recorder stands around it."""
        try:
            # Under DDP, Lightning puts validation_step in the place of forward for one call: those are its arguments.
            if path or module.forward == self._forward:
                self._note(path, args, kwargs)
        except Exception as error:
            self.reason = reason_of(error)

    def _note(self, path: str, args: Any, kwargs: Any) -> None:
        if self.form is None and self.reason is None:
            self.form = behaviour.call_of(args, kwargs, self.torch)
            self.path = path

    def stop(self) -> None:
        """Take the hooks away again."""
        while self._handles:
            self._handles.pop().remove()


def probe(model: Any, watch: Watch | None, example: Any, saved: Any = None) -> dict[str, Any]:
    """The probe of a Lightning module at the time of saving.

    Args:
        model: The module.
        watch: What was seen of its inputs, None for nothing.
        example: An input that the caller gives, None for none.
        saved: The state_dict as it is going to be saved.

    Raises:
        Unsuitable: There is no form of an input, or asking the model would disturb the run.
    """
    torch = sys.modules["torch"]
    strategy = type(getattr(getattr(model, "_trainer", None), "strategy", None)).__name__
    if strategy not in (*_WHOLE, "NoneType"):
        raise behaviour.Unsuitable(f"under {strategy} no process has the whole model")
    if watch is not None and watch.slow is not None:
        raise behaviour.Unsuitable(f"it took {watch.slow:.1f} s the first time")
    _need_its_weights(model, saved, torch)
    if example is None:
        example = getattr(model, "example_input_array", None)
    start = time.perf_counter()
    if watch is not None and watch.form is not None and example is None:
        out = _answered(model, watch.path or "", watch.form, torch, "batch")
    elif example is not None:
        out = from_example(model, example, torch)
    else:
        raise behaviour.Unsuitable(watch.reason if watch is not None and watch.reason else "no input was seen")
    took = time.perf_counter() - start
    if watch is not None and took > _SLOW:
        smaller = behaviour.cut(watch.form) if example is None and watch.form else None
        if smaller is None:
            watch.slow = took
        else:
            watch.form = smaller  # from the next save on: the answer of this one belongs to the form of this one
    return out


def _need_its_weights(model: Any, saved: Any, torch: ModuleType) -> None:
    """See that the file gets the weights which the model has now: averages of them would answer otherwise.

    Raises:
        Unsuitable: It gets others, or nobody can tell at little cost.
    """
    if not isinstance(saved, Mapping):
        return
    left = _COMPARED
    for key, mine in model.state_dict().items():
        other = saved.get(key)
        if other is None or other is mine or not isinstance(mine, torch.Tensor):
            continue
        if not isinstance(other, torch.Tensor) or (mine.shape, mine.dtype) != (other.shape, other.dtype):
            raise behaviour.Unsuitable(f"the file gets another {key} than the model has")
        if mine.data_ptr() == other.data_ptr() and mine.device == other.device:
            continue
        left -= mine.numel() * mine.element_size()
        if left < 0:
            raise behaviour.Unsuitable("the file gets copies of the weights, too many to compare")
        if not torch.equal(torch.nan_to_num(mine), torch.nan_to_num(other).to(mine.device)):
            raise behaviour.Unsuitable(f"the file gets another {key} than the model has")


def from_example(model: Any, example: Any, torch: ModuleType) -> dict[str, Any]:
    """The probe for an input that the caller gives; its form is used, not its values."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, dict):
        kwargs = example
    else:
        args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    return _answered(model, "", behaviour.call_of(args, kwargs, torch), torch, "example")


def _answered(model: Any, path: str, form: dict[str, Any], torch: ModuleType, origin: str) -> dict[str, Any]:
    form = copy.deepcopy(form)  # what was asked is written down beside the answer, whatever becomes of the form later
    out: dict[str, Any] = {"module": path, "input": form, "from": origin, "generator": behaviour.GENERATOR}
    out.update(behaviour.answer(model, path, form, torch))
    return out

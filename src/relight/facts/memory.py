"""How much memory a load takes, from sizes that the file and the model state: nothing is measured.

Source: torch/serialization.py of torch 2.13 (without ``mmap=True`` every storage is read into memory of its own before
anything is copied), and torch.nn.Module.load_state_dict, which copies into the model's own tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from relight.core.checkpoint import Checkpoint
from relight.core.dtypes import BY_NAME
from relight.core.target import Environment, ModelSpec
from relight.facts.devices import Placement

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a load needs of the computer's memory at its fullest moment, in bytes.

    Attributes:
        file: All storages of the file: torch.load reads the optimizer's too.
        weights: Those of them that the state_dict uses.
        model: The model's own tensors; 0 where there is no model to compare with.
        free: What is free here, None if that is not known.
    """

    file: int
    weights: int
    model: int
    free: int | None

    @property
    def needed(self) -> int:
        """File and model at the same time."""
        return self.file + self.model

    @property
    def short(self) -> bool:
        """Whether it is known not to fit."""
        return self.free is not None and self.needed > self.free


def memory(checkpoint: Checkpoint, spec: ModelSpec | None, environment: Environment, placement: Placement) -> Memory:
    """Add it up. What goes straight to a GPU passes through memory piece by piece, and is left out."""
    stays = {s.id: s for s in checkpoint.storages.values() if placement.mapped or s.device in ("cpu", "meta")}
    used = {t.storage_id for t in checkpoint.tensors}
    model = 0
    for param in () if spec is None else spec.params:
        dtype = BY_NAME.get(param.dtype or "")
        if dtype is None or param.shape is None:
            continue
        size = dtype.itemsize
        for n in param.shape:
            size *= n
        # Of two names of one tensor, the first counts.
        model += 0 if any(other < param.key for other in param.tied_with) else size
    return Memory(
        file=sum(s.nbytes for s in stays.values()),
        weights=sum(s.nbytes for s in stays.values() if s.id in used),
        model=model,
        free=environment.memory,
    )


def size(count: int) -> str:
    """``31.2 GiB``."""
    number = float(count)
    unit = _UNITS[0]
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"

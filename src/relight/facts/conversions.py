"""Conversions of element types that ``load_state_dict`` makes without a word, and what each can lose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from relight.core.checkpoint import Checkpoint
from relight.core.dtypes import BY_NAME, DType
from relight.core.target import ModelSpec

# Largest exponent and digits of a mantissa, in bits. Source: IEEE 754, and the table of torch.finfo in torch 2.13.
_FLOATS = {
    "float64": (1023, 52),
    "float32": (127, 23),
    "bfloat16": (127, 7),
    "float16": (15, 10),
    "complex128": (1023, 52),
    "complex64": (127, 23),
    "complex32": (15, 10),
    "float8_e5m2": (15, 2),
    "float8_e4m3fn": (8, 3),
}


class Loss(IntEnum):
    """What a conversion can lose, the least first."""

    NONE = 0
    DIGITS = 1
    RANGE = 2
    FRACTION = 3
    IMAGINARY = 4


@dataclass(frozen=True, slots=True)
class Conversion:
    """Tensors that are converted in the same way.

    Attributes:
        saved: Type in the file.
        wanted: Type in the model.
        keys: Their keys.
        loss: What can get lost.
    """

    saved: str
    wanted: str
    keys: tuple[str, ...]
    loss: Loss


def conversions(checkpoint: Checkpoint, spec: ModelSpec) -> list[Conversion]:
    """All of them, in file order; keys with another shape are not copied, and not here."""
    params = {p.key: p for p in spec.persistent}
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor in checkpoint.tensors:
        param = params.get(tensor.key)
        if param is None or param.dtype is None or param.dtype == tensor.dtype or tensor.layout != "strided":
            continue
        if param.shape is None or tuple(param.shape) == tuple(tensor.shape):
            groups.setdefault((tensor.dtype, param.dtype), []).append(tensor.key)
    return [Conversion(a, b, tuple(keys), loss(a, b)) for (a, b), keys in groups.items()]


def loss(saved: str, wanted: str) -> Loss:
    """What can get lost between two types; NONE for those that are not known."""
    a, b = BY_NAME.get(saved), BY_NAME.get(wanted)
    if a is None or b is None:
        return Loss.NONE
    if a.kind == "complex" and b.kind != "complex":
        return Loss.IMAGINARY
    if a.kind in ("float", "complex") and b.kind in ("int", "bool"):
        return Loss.FRACTION
    if a.kind in ("float", "complex") and b.kind in ("float", "complex"):
        return _between_floats(saved, wanted)
    return _of_whole_numbers(a, b)


def _between_floats(saved: str, wanted: str) -> Loss:
    a, b = _FLOATS.get(saved), _FLOATS.get(wanted)
    if a is None or b is None:
        return Loss.NONE
    if b[0] < a[0]:
        return Loss.RANGE
    return Loss.DIGITS if b[1] < a[1] else Loss.NONE


def _of_whole_numbers(a: DType, b: DType) -> Loss:
    """Whole numbers are counts and indices, nearly always small: only a type without room for those is said to lose."""
    if b.kind == "bool" and a.kind == "int":
        return Loss.RANGE
    if a.kind == "int" and b.kind == "int" and b.itemsize < min(a.itemsize, 4):
        return Loss.RANGE
    return Loss.NONE

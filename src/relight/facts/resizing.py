"""Edits that give tensors another size or layout, with the policy that each follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from relight.core.checkpoint import Checkpoint
from relight.core.edits import ComputeTensors, ConvertTensors
from relight.facts.keys import Mismatch

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


def rows(checkpoint: Checkpoint, mismatched: Sequence[Mismatch]) -> ComputeTensors | None:
    """The first entries stay; further ones are the mean of all, or are left out. None where that is not all there is."""
    types = _types(checkpoint)
    out = []
    for m in mismatched:
        dim = _dimension(m)
        if dim is None or types.get(m.key) not in _FLOATS:
            return None
        policy = "mean" if m.wanted[dim] > m.saved[dim] else "cut"
        out.append((m.key, (m.key,), f"rows:{policy}", m.wanted, types[m.key]))
    return ComputeTensors(tuple(out)) if out else None


def positions(checkpoint: Checkpoint, mismatched: Sequence[Mismatch]) -> tuple[ComputeTensors, bool] | None:
    """Positions of a square are interpolated, others are cut or get the mean; and whether any was interpolated."""
    found = rows(checkpoint, mismatched)
    if found is None:
        return None
    out = []
    squares = False
    for m, (key, sources, how, shape, dtype) in zip(mismatched, found.tensors, strict=True):
        dim = _dimension(m)
        assert dim is not None
        kept = next((k for k in (0, 1, 2) if _square(m.saved[dim] - k) and _square(m.wanted[dim] - k)), None)
        squares = squares or kept is not None
        out.append((key, sources, how if kept is None else f"grid:{kept}", shape, dtype))
    return ComputeTensors(tuple(out)), squares


def relaid(
    checkpoint: Checkpoint, mismatched: Sequence[Mismatch], silent: Sequence[str]
) -> tuple[ConvertTensors, bool]:
    """The same numbers in the model's layout; and whether any weight is turned, which no shape proves."""
    shapes = {t.key: t.shape for t in checkpoint.tensors}
    out = []
    turned = bool(silent)
    for m in mismatched:
        same = [n for n in m.saved if n != 1] == [n for n in m.wanted if n != 1]
        turned = turned or not same
        out.append((m.key, (m.key,), "reshape" if same else "transpose", m.wanted))
    out += [(key, (key,), "transpose", shapes[key][::-1]) for key in silent if key in shapes]
    return ConvertTensors(tuple(out)), turned


def _types(checkpoint: Checkpoint) -> dict[str, str]:
    return {t.key: t.dtype for t in checkpoint.tensors}


def _dimension(m: Mismatch) -> int | None:
    dims = [i for i, (a, b) in enumerate(zip(m.saved, m.wanted, strict=False)) if a != b]
    whole = len(m.saved) == len(m.wanted) and len(dims) == 1
    return dims[0] if whole and m.saved[dims[0]] and m.wanted[dims[0]] else None


def _square(n: int) -> bool:
    return n > 1 and math.isqrt(n) ** 2 == n

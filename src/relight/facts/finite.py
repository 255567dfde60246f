"""Weights that are not numbers: a training that diverged, seen in the values of the file."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass

from relight.core.checkpoint import Checkpoint
from relight.core.dtypes import BY_NAME
from relight.core.errors import SourceError
from relight.reader.source import open_local
from relight.reader.values import can_be_non_finite, chunks, non_finite

# A training that diverged leaves NaN in nearly every tensor and nearly everywhere: their beginnings show it. What is
# healthy costs a few hundredths of a second here, whatever the file's size.
_EACH = 256 << 10  # bytes of one tensor
_ALL = 16 << 20  # bytes of all of them

# Without a model, what its parameters and statistics are called: buffers may hold infinities that are meant, as a
# causal mask does.
_LEARNT = frozenset({"weight", "bias", "running_mean", "running_var", "in_proj_weight", "in_proj_bias"})


@dataclass(frozen=True, slots=True)
class NotFinite:
    """A tensor with values that are not finite.

    Attributes:
        key: Its key in the state_dict.
        nan: How many NaN were seen.
        inf: How many infinite values were seen.
        seen: How many values were looked at.
        numel: How many it has.
        first: Place of the first that is not finite, in the order of the elements.
    """

    key: str
    nan: int
    inf: int
    seen: int
    numel: int
    first: int


def not_finite(checkpoint: Checkpoint, parameters: Container[str] | None) -> tuple[NotFinite, ...]:
    """Look at the beginnings of what was learnt, in a local file.

    Args:
        checkpoint: The file.
        parameters: Keys of the model's parameters, where it is known.
    """
    if not os.path.isfile(checkpoint.origin):
        return ()
    out: list[NotFinite] = []
    left = _ALL
    try:
        source = open_local(checkpoint.origin)
    except SourceError:
        return ()
    try:
        for entry in checkpoint.tensors:
            storage = checkpoint.storages.get(entry.storage_id or "")
            learnt = entry.key.rpartition(".")[2] in _LEARNT or (parameters is not None and entry.key in parameters)
            if storage is None or not learnt or not can_be_non_finite(entry.dtype):
                continue
            try:
                chunk = next(chunks(source, entry, storage), b"")
            except (SourceError, ValueError):  # no plain values: nothing is said about them
                continue
            size = BY_NAME[entry.dtype].itemsize
            chunk = chunk[: min(_EACH, left) // size * size]
            left -= len(chunk)
            bad = non_finite(chunk, entry.dtype, little=checkpoint.little_endian)
            if bad.nan or bad.inf:
                out.append(NotFinite(entry.key, bad.nan, bad.inf, len(chunk) // size, entry.numel, bad.first))
            if left < _EACH:
                break
    finally:
        source.close()
    return tuple(out)

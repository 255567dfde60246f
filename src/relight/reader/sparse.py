"""Indices of sparse tensors: torch does not check them by default, so a bad one reads or writes foreign memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from relight.core.checkpoint import StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.reader import values
from relight.reader.limits import Limits
from relight.reader.source import ByteSource
from relight.reader.tensors import Refusal

_INTEGERS = frozenset({"int64", "int32"})


def check(
    source: ByteSource,
    tensor: TensorEntry,
    layout: str,
    parts: tuple[TensorEntry, ...],
    storages: Mapping[str, StorageEntry],
    limits: Limits,
    *,
    little: bool,
) -> Refusal | None:
    """Read the indices of a sparse tensor and say why they do not fit its shape; None if they do."""
    indices = parts[:-1]
    if any(t.dtype not in _INTEGERS for t in indices):
        return Refusal("its indices are no integers")
    if sum(t.numel * BY_NAME[t.dtype].itemsize for t in indices) > limits.index_bytes:
        return Refusal("its indices are too many to check", "index_bytes")
    try:
        read = [_read(source, t, storages, little) for t in indices]
    except ValueError as error:
        return Refusal(str(error))
    if len(read) == 1:
        return _coordinates(read[0], indices[0].shape, parts[-1].shape, tensor.shape)
    return _compressed(read[0], read[1], layout, indices, tensor.shape)


def _read(source: ByteSource, t: TensorEntry, storages: Mapping[str, StorageEntry], little: bool) -> Sequence[int]:
    storage = storages[t.storage_id or ""]
    return values.decode(b"".join(values.chunks(source, t, storage)), t.dtype, little=little)


def _coordinates(
    read: Sequence[int], shape: tuple[int, ...], of_values: tuple[int, ...], size: tuple[int, ...]
) -> Refusal | None:
    if len(shape) != 2 or shape[0] > len(size) or not of_values or of_values[0] != shape[1]:
        return Refusal("its indices and values do not belong together")
    count = shape[1]
    for dimension in range(shape[0]):
        row = read[dimension * count : (dimension + 1) * count]
        if count and (min(row) < 0 or max(row) >= size[dimension]):
            return Refusal(f"an index lies outside dimension {dimension}, which has {size[dimension]:,}")
    return None


def _compressed(
    bounds: Sequence[int], plain: Sequence[int], layout: str, parts: Sequence[TensorEntry], size: tuple[int, ...]
) -> Refusal | None:
    if len(size) < 2 or any(len(t.shape) < 1 for t in parts):
        return Refusal("its indices do not belong to a matrix")
    columns = size[-2] if layout in ("sparse_csc", "sparse_bsc") else size[-1]
    if len(plain) and (min(plain) < 0 or max(plain) >= columns):
        return Refusal(f"an index lies outside its dimension, which has {columns:,}")
    # Batches stand one behind the other; each of them starts at zero again.
    run, most = parts[0].shape[-1], parts[1].shape[-1]
    for start in range(0, len(bounds), max(run, 1)):
        batch = bounds[start : start + run]
        if batch[0] != 0 or batch[-1] > most or any(a > b for a, b in pairwise(batch)):
            return Refusal("the bounds of its rows do not rise from zero to the number of its values")
    return None

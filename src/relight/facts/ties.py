"""Names that are one tensor in the model and tensors of different values in the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import SourceError
from relight.core.target import ModelSpec
from relight.facts.keys import KeyDiff
from relight.reader.source import ByteSource, open_local
from relight.reader.values import chunks, decode

# Two tensors that were trained apart differ within the first few values; equal ones are read up to here.
_MOST = 32 * 10**6


@dataclass(frozen=True, slots=True)
class Overwritten:
    """A tensor of the file that is copied into the model, and then another one over it.

    Attributes:
        key: The one whose values are lost.
        by: The one that stays.
        at: Position of the first value that differs.
        values: That value in both, as text; empty where the type has none to show.
    """

    key: str
    by: str
    at: int
    values: tuple[str, str] | tuple[()] = ()


def overwritten(checkpoint: Checkpoint, spec: ModelSpec, diff: KeyDiff) -> tuple[Overwritten, ...]:
    """Compare the tensors of a local file that the model keeps as one.

    The values of tensors of different types are not compared, nor what lies beyond the first 32 MB of a tensor: of
    those nothing is said.
    """
    groups = _groups(spec, set(diff.matched))
    if not groups or not os.path.isfile(checkpoint.origin):
        return ()
    entries = {t.key: t for t in checkpoint.tensors}
    out: list[Overwritten] = []
    source = open_local(checkpoint.origin)
    try:
        for group in groups:
            # load_state_dict copies in the order of the model's own names: the last one stays.
            *others, last = (entries[key] for key in group)
            for other in others:
                found = _difference(source, checkpoint, other, last)
                if found is not None:
                    out.append(Overwritten(other.key, last.key, *found))
    except (SourceError, ValueError):  # the file went away or was cut meanwhile, or has no plain values: no claim
        return ()
    finally:
        source.close()
    return tuple(out)


def _groups(spec: ModelSpec, loaded: set[str]) -> list[list[str]]:
    """Names of one tensor that are all loaded, in the order of the model."""
    out: list[list[str]] = []
    seen: set[str] = set()
    for param in spec.params:
        if param.tied_with and param.persistent and param.key not in seen:
            names = {param.key, *param.tied_with}
            seen |= names
            group = [p.key for p in spec.params if p.key in names and p.persistent and p.key in loaded]
            if len(group) > 1:
                out.append(group)
    return out


def _difference(
    source: ByteSource, checkpoint: Checkpoint, one: TensorEntry, two: TensorEntry
) -> tuple[int, tuple[str, str] | tuple[()]] | None:
    """Position and values of the first difference, None where none was found."""
    same_bytes = (one.storage_id, one.offset, one.stride) == (two.storage_id, two.offset, two.stride)
    if same_bytes or one.dtype != two.dtype or one.shape != two.shape:
        return None
    storages = [checkpoint.storages.get(t.storage_id or "") for t in (one, two)]
    if storages[0] is None or storages[1] is None:
        return None
    size, read = BY_NAME[one.dtype].itemsize, 0
    for a, b in zip(chunks(source, one, storages[0]), chunks(source, two, storages[1]), strict=False):
        if a != b and len(a) == len(b):
            at = next(i for i in range(0, len(a), size) if a[i : i + size] != b[i : i + size])
            raw = (a[at : at + size], b[at : at + size])
            return (read + at) // size, _shown(raw, one.dtype, little=checkpoint.little_endian)
        read += len(a)
        if read >= _MOST or len(a) != len(b):
            break
    return None


def _shown(raw: Sequence[bytes], dtype: str, *, little: bool) -> tuple[str, str] | tuple[()]:
    try:
        one, two = (decode(r, dtype, little=little)[0] for r in raw)
    except ValueError:
        return ()
    return f"{one:.6g}", f"{two:.6g}"

"""The digests of a manifest against the bytes of the file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from relight.core.checkpoint import Checkpoint
from relight.core.errors import SourceError
from relight.core.manifest import Manifest
from relight.reader import fingerprint
from relight.reader.source import open_local

# Adding up every byte takes some three seconds per gigabyte in pure Python; a sample is 64 KB for each tensor.
_WHOLE = 64 * 10**6


@dataclass(frozen=True, slots=True)
class Altered:
    """What a comparison showed.

    Attributes:
        keys: Tensors whose digest is another one.
        compared: How many tensors were compared.
        whole: Whether every byte of them was.
    """

    keys: tuple[str, ...] = ()
    compared: int = 0
    whole: bool = False


def altered(checkpoint: Checkpoint, manifest: Manifest, *, prove: bool = False) -> Altered:
    """Compare the tensors of a local file whose names are in the manifest.

    Args:
        checkpoint: The file.
        manifest: Of the file.
        prove: Whether every byte is read however many there are, where the manifest has sums.
    """
    integrity = manifest.part("integrity")
    known = integrity.get("tensors")
    if integrity.get("algorithm") != fingerprint.ALGORITHM or not isinstance(known, dict):
        return Altered()
    if not checkpoint.little_endian or not os.path.isfile(checkpoint.origin):
        return Altered()
    rows = []
    for tensor in checkpoint.tensors:
        storage = checkpoint.storages.get(tensor.storage_id or "")
        span = fingerprint.span_of(tensor, storage)
        wanted = known.get(tensor.key)
        if span is not None and storage is not None and isinstance(wanted, list) and len(wanted) == 2:
            rows.append((tensor, storage, span, wanted))
    whole = prove or sum(span.length for _, _, span, _ in rows) <= _WHOLE
    whole = whole and all(total for _, _, _, (total, _) in rows)
    keys: list[str] = []
    source = open_local(checkpoint.origin)
    try:
        for tensor, storage, span, (total, sample) in rows:
            differs = fingerprint.sample(source, tensor, span) != sample
            if not differs and whole:
                differs = fingerprint.total(source, tensor, storage) != total
            if differs:
                keys.append(tensor.key)
    except (SourceError, ValueError):  # the file went away or was cut meanwhile: nothing is claimed of it
        return Altered()
    finally:
        source.close()
    return Altered(tuple(keys), len(rows), whole)

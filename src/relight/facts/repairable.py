"""Which edits can be carried out on which files: what `relight fix` does not do yet, no report promises."""

from __future__ import annotations

from collections.abc import Sequence

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.edits import (
    AddNames,
    ComputeTensors,
    ConvertTensors,
    DropKeys,
    Edit,
    MakePlain,
    OrderKeys,
    RenameKeys,
    SetDevice,
)
from relight.core.objects import mapping_pairs

# What a copy mends by being written, or loses nothing by.
HARMLESS = frozenset({ProblemKind.COMPRESSED_RECORDS, ProblemKind.BYTES_AFTER})
WRITABLE = frozenset({Layout.TORCH_ZIP, Layout.TORCH_LEGACY, Layout.SAFETENSORS})
_KEYS = (RenameKeys, DropKeys, AddNames, ConvertTensors, ComputeTensors, OrderKeys)


def repairable(checkpoint: Checkpoint, edits: Sequence[Edit]) -> bool:
    """Whether a new file can be written with these edits."""
    if checkpoint.layout not in WRITABLE or not checkpoint.readable or checkpoint.lost or "://" in checkpoint.origin:
        return False
    if any(p.kind not in HARMLESS for p in checkpoint.problems):
        return False
    if checkpoint.layout is Layout.SAFETENSORS:
        return all(isinstance(e, (RenameKeys, DropKeys)) for e in edits)
    mapping = mapping_pairs(checkpoint.root) is not None
    if not mapping:
        return all(isinstance(e, (SetDevice, MakePlain)) for e in edits)
    return not any(isinstance(e, _KEYS) for e in edits) or checkpoint.state_dict_path is not None

"""Folders of safetensors files in which each process left its piece of every tensor, and no index says which.

``torch.distributed.checkpoint.HuggingFaceStorageWriter(save_distributed=True)`` writes them: a file per process (and per
file of the finished model), with the place of each piece in its header. Nothing states the whole shapes or the number
of processes: the shapes are as far as the pieces reach.

Sources: ``torch/distributed/checkpoint/hf_storage.py``, ``_hf_utils.py`` and ``_consolidate_hf_safetensors.py`` of
torch 2.13.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind, TensorEntry
from relight.core.errors import SourceError
from relight.core.objects import ObjectPath
from relight.reader import safetensors
from relight.reader.folder import Folder
from relight.reader.json_text import parse_json
from relight.reader.source import LocalSource

_INFO = "DCP_SHARDING_INFO"
_OFFSETS = "saved_offsets"
_SHARDED = "sharded/"  # where the pieces lie until they are put together
_NAME = re.compile(r"(?:sharded/)?(?:shard-(\d{5,9})-)?model-(\d{5,9})-of-(\d{5,9})\.safetensors\Z")
_MANY_PIECES = 256  # up to here pieces are compared with each other, beyond only their sizes are added


class _Piece(NamedTuple):
    """A part of a tensor in one file."""

    file: str
    offsets: tuple[int, ...]
    tensor: TensorEntry

    @property
    def box(self) -> tuple[tuple[int, int], ...]:
        """Where it lies: start and end in every dimension."""
        return tuple((o, o + n) for o, n in zip(self.offsets, self.tensor.shape, strict=True))


@dataclass(slots=True)
class _Pieces:
    """What the files of a folder hold."""

    by_key: dict[str, list[_Piece]] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)  # keys with a piece that is not all there: why
    files: dict[str, Checkpoint] = field(default_factory=dict)


def find(folder: Folder) -> list[str]:
    """The files, if that is what a folder is."""
    for where in ("", _SHARDED):
        names = [n for n in folder.files if n.endswith(".safetensors") and n.rpartition("/")[0] == where.rstrip("/")]
        if names and (any(map(_NAME.match, names)) or _INFO in _texts(folder, names[0])):
            return names
    return []


def no_safetensors(checkpoint: Checkpoint) -> str:
    """What is wrong with a file of that suffix which is something else."""
    if checkpoint.layout is Layout.TORCH_ZIP:
        # _write_files_from_queue in torch/distributed/checkpoint/filesystem.py writes objects before the header.
        return (
            "the file starts with an object that torch.save wrote, where the header of safetensors belongs: "
            "torch.distributed.checkpoint writes that when the state holds more than tensors, and cannot read it back"
        )
    return "the file is no safetensors file"


def read(folder: Folder, names: list[str]) -> Checkpoint:
    """Put the pieces of all files together."""
    found = _Pieces()
    for name in names:
        _look(folder, name, found)
    entries: list[TensorEntry] = []
    lost: list[TensorEntry] = []
    refused: dict[str, str] = {}
    absent = _absent(names)
    for name in absent[1]:
        folder.problem(ProblemKind.RECORD_MISSING, "the names of the other files count it, and it is not there", name)
    for key, pieces in found.by_key.items():
        entry = _whole(folder, key, pieces, found)
        reason = found.cut.get(key) or _hole(entry, pieces)
        if len({p.tensor.dtype for p in pieces}) > 1:
            reason = "its pieces have different dtypes"
        if reason is None:
            entries.append(entry)
            continue
        refused[key] = reason
        lost.append(entry)
        if key not in found.cut:
            more = f"; there is no file of shard {', '.join(map(str, absent[0]))}" if absent[0] else ""
            folder.problem(ProblemKind.RECORD_MISSING, f"{key}: {reason}{more}")
    for key, reason in found.cut.items():
        refused.setdefault(key, reason)
    folder.rest(set(names))
    out = folder.checkpoint(Layout.SHARDED, "hf-pieces")
    return replace(
        out,
        state_dict_path=ObjectPath() if found.by_key else None,
        tensors=tuple(entries),
        lost=tuple(lost),
        refused=refused,
        problems=(replace(out.problems[0], message=_summary(found, names)), *out.problems[1:]),
    )


def placed(folder: Folder, names: list[str]) -> tuple[dict[str, list[_Piece]], dict[str, Checkpoint]]:
    """Where every piece of every tensor is, and the files that hold them, for putting them together."""
    found = _Pieces()
    for name in names:
        _look(folder, name, found)
    return found.by_key, found.files


def _summary(found: _Pieces, names: list[str]) -> str:
    pieces = sum(len(p) for p in found.by_key.values())
    shards = {m.group(1) for m in map(_NAME.match, names) if m is not None} - {None}
    text = f"a folder of safetensors without an index: {_count(pieces, 'piece')} in {_count(len(names), 'file')}"
    if not shards:
        return text
    return f"{text} of {_count(len(shards), 'process', 'es')}; nothing in it says how many there were"


def _count(n: int, what: str, plural: str = "s") -> str:
    return f"{n:,} {what}{'' if n == 1 else plural}"


def _texts(folder: Folder, name: str) -> dict[str, str]:
    try:
        source = LocalSource(os.path.join(folder.path, name))
    except SourceError:
        return {}
    try:
        return safetensors.metadata(source, folder.limits)
    finally:
        source.close()
        folder.bytes_read += source.bytes_read


def _look(folder: Folder, name: str, out: _Pieces) -> None:
    """Read one file, and the places of its tensors."""
    checkpoint = folder.read(name)
    if checkpoint is None:
        return
    if checkpoint.layout is not Layout.SAFETENSORS:
        folder.problem(ProblemKind.ARCHIVE_MALFORMED, no_safetensors(checkpoint), name)
        return
    out.files[name] = checkpoint
    text = _texts(folder, name).get(_INFO)
    places: object = None
    if text is not None:
        places = parse_json(text.encode("utf-8", "replace"))
        if not isinstance(places, dict):
            folder.problem(ProblemKind.ARCHIVE_MALFORMED, f"{_INFO} is no JSON object", name)
            places = {}
    for tensor in (*checkpoint.tensors, *checkpoint.lost):
        offsets = (0,) * len(tensor.shape)
        if isinstance(places, dict):
            place = places.get(tensor.key)
            given = place.get(_OFFSETS) if isinstance(place, dict) else None
            if (
                not isinstance(given, list)
                or len(given) != len(offsets)
                or not all(type(n) is int and n >= 0 for n in given)
            ):
                message = f"{tensor.key}: {_INFO} does not say where the piece belongs"
                folder.problem(ProblemKind.ARCHIVE_MALFORMED, message, name)
                out.cut[tensor.key] = message
                continue
            offsets = tuple(given)
        out.by_key.setdefault(tensor.key, []).append(_Piece(name, offsets, tensor))
    for key, reason in checkpoint.refused.items():
        out.cut[key] = f"{name}: {reason}"


def _whole(folder: Folder, key: str, pieces: list[_Piece], found: _Pieces) -> TensorEntry:
    """The tensor that the pieces are parts of."""
    rank = min(len(p.offsets) for p in pieces)
    shape = tuple(max(p.offsets[d] + p.tensor.shape[d] for p in pieces) for d in range(rank))
    first = pieces[0]
    if first.tensor.shape == shape and not any(first.offsets):
        return folder.owned(first.file, first.tensor, found.files[first.file])
    return TensorEntry(key, first.tensor.dtype, shape, (), 0, None, "cpu", ObjectPath((key,)), layout="distributed")


def _hole(entry: TensorEntry, pieces: list[_Piece]) -> str | None:
    """Why the pieces do not make up the tensor; None if they do."""
    if len({len(p.offsets) for p in pieces}) > 1:
        return "its pieces have different numbers of dimensions"
    boxes = {p.box: p for p in pieces}
    total, covered = entry.numel, sum(p.tensor.numel for p in boxes.values())
    if covered < total:
        return f"{total - covered:,} of its {total:,} values are in no file"
    if covered > total and len(boxes) == 1:
        return None
    if covered > total or (len(boxes) <= _MANY_PIECES and _overlap(list(boxes))):
        return "its pieces overlap"
    return None


def _overlap(boxes: list[tuple[tuple[int, int], ...]]) -> bool:
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            if math.prod(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in zip(one, other, strict=True)):
                return True
    return False


def _absent(names: Iterable[str]) -> tuple[list[int], list[str]]:
    """Numbers of processes without a file (one that had nothing to write has none), and files that must be there."""
    shards: set[int] = set()
    models: dict[int, set[int]] = {}
    for match in map(_NAME.match, names):
        if match is None:
            continue
        if match.group(1) is not None:
            shards.add(int(match.group(1)))
        else:
            models.setdefault(int(match.group(3)), set()).add(int(match.group(2)))
    gaps = [n for n in range(1, min(max(shards, default=0), 1000)) if n not in shards]
    of, present = max(models.items(), key=lambda item: len(item[1]), default=(0, set()))
    return gaps, [f"model-{n:05}-of-{of:05}.safetensors" for n in range(1, min(of, 1000) + 1) if n not in present]

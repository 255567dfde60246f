"""Folders of shards as one: with an index, or with pieces of every tensor in every file."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError
from relight.core.objects import ObjectPath, Value
from relight.reader import DEFAULT_LIMITS, open_checkpoint, pieces
from relight.reader.detect import read as read_source
from relight.reader.folder import Folder
from relight.repair.material import Material, contiguous, ordered, sound, tensor_node
from relight.repair.merging import stored_of
from relight.repair.proving import changed, damage
from relight.repair.stored import FileRange, Files, Pieces, Run, Stored

_SHARD = re.compile(r"shard-(\d+)-")


def of_shards(path: str, files: Files, checkpoint: Checkpoint, lost: dict[str, str] | None = None) -> Material:
    """What such a folder is made of.

    Args:
        path: The folder.
        files: Opens its files.
        checkpoint: What was read of it.
        lost: Where given, the folder may be damaged: gets the tensors that are not whole, and why.

    Raises:
        RepairError: It is not whole: what is missing is named.
    """
    if lost is None:
        sound(checkpoint, path)
    else:
        lost |= {t.key: "its values are not all there" for t in checkpoint.lost}
        lost |= checkpoint.refused
    if any(t.layout == "distributed" for t in checkpoint.tensors):
        out = _of_pieces(path, files, checkpoint)
    else:
        out = _of_whole_tensors(path, files, checkpoint, lost)
    if checkpoint.problems and checkpoint.problems[0].what == "hf-pieces":
        shards = {match.group(1) for match in map(_SHARD.search, checkpoint.files) if match is not None}
        said = f"{len(shards) or 1}, by what is there: this layout does not record how many there were"
        out.changes.append(("processes", said))
    return out


def _of_whole_tensors(path: str, files: Files, checkpoint: Checkpoint, lost: dict[str, str] | None) -> Material:
    storages: dict[str, Stored] = {}
    read: dict[str, Checkpoint] = {}
    bad: dict[str, str] = {}
    for key in checkpoint.storages:
        name, _, inner = key.partition(":")
        file = os.path.join(path, name)
        read[name] = read.get(name) or open_checkpoint(file)
        try:
            content = stored_of(files, read[name], inner, file)
        except RepairError:
            if lost is None:
                raise
            continue  # its tensors are not all there, which is known
        if lost is not None and content.crc is not None and changed(content):
            bad[key] = damage(content)
        else:
            storages[key] = content
    tensors: list[TensorEntry] = []
    for t in checkpoint.tensors:
        reason = bad.get(t.storage_id or "")
        if t.storage_id is None or t.layout != "strided":
            reason = f"it is a {t.layout} tensor, which is more than a run of values"
        if reason is None:
            tensors.append(t)
        elif lost is None:
            raise RepairError(path, f"{t.key}: {reason}")
        else:
            lost[t.key] = reason
    numel = {key: s.numel for key, s in checkpoint.storages.items()}
    root = ordered((t.key, tensor_node(t, t.storage_id or "", numel[t.storage_id or ""])) for t in tensors)
    return folder_material(path, files, checkpoint, root=root, storages=storages, tensors=tensors)


def folder_material(
    path: str,
    files: Files,
    checkpoint: Checkpoint,
    *,
    root: Value,
    storages: dict[str, Stored],
    tensors: Sequence[TensorEntry] = (),
) -> Material:
    """A material of a folder; its new file gets the permissions of one of its files."""
    return Material(
        origin=path,
        layout=checkpoint.layout,
        nbytes=checkpoint.nbytes,
        root=root,
        storages=storages,
        tensors=tuple(tensors),
        state_dict=ObjectPath(),
        like=os.path.join(path, checkpoint.files[0]),
        files=files,
    )


def _of_pieces(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    folder = Folder(path, DEFAULT_LIMITS, read_source)
    folder.scan()
    by_key, read = pieces.placed(folder, pieces.find(folder))
    storages: dict[str, Stored] = {}
    tensors: list[TensorEntry] = []
    for entry in checkpoint.tensors:
        boxes: list[Box] = []
        for piece in by_key[entry.key]:
            span = read[piece.file].storages[piece.tensor.storage_id or ""].span
            assert span is not None
            content = FileRange(files, os.path.join(path, piece.file), span.start, span.length)
            boxes.append(Box(piece.offsets, piece.tensor.shape, content))
        storages[entry.key] = put_together(path, entry.key, entry.shape, BY_NAME[entry.dtype].itemsize, boxes)
        tensors.append(contiguous(entry.key, entry.dtype, entry.shape))
    root = ordered((t.key, tensor_node(t, t.key, t.numel)) for t in tensors)
    return folder_material(path, files, checkpoint, root=root, storages=storages, tensors=tensors)


# ---------------------------------------------------------------- pieces of one tensor


class Box(NamedTuple):
    """A part of a tensor: where it begins in every dimension, its sizes, and its values one after the other."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    content: Stored


def put_together(path: str, key: str, shape: tuple[int, ...], itemsize: int, boxes: Sequence[Box]) -> Stored:
    """A tensor from its parts.

    Args:
        path: Of the folder.
        key: Its name.
        shape: Its sizes.
        itemsize: Bytes of an element.
        boxes: Its parts; the same part may come more than once, from processes that hold copies.

    Raises:
        RepairError: The parts leave a hole, or overlap.
    """
    distinct = list({(b.offsets, b.shape): b for b in reversed(boxes)}.values())
    if any(len(b.offsets) != len(shape) or len(b.shape) != len(shape) for b in distinct):
        raise RepairError(path, f"{key}: its parts have other dimensions than it has")
    full = next((b for b in distinct if b.shape == shape and not any(b.offsets)), None)
    nbytes = math.prod(shape) * itemsize
    if full is not None:
        if full.content.nbytes != nbytes:
            raise RepairError(path, f"{key}: it has {full.content.nbytes:,} bytes, not {nbytes:,}")
        return full.content
    distinct = [b for b in distinct if math.prod(b.shape)]
    for b in distinct:
        if math.prod(b.shape) * itemsize != b.content.nbytes:
            raise RepairError(
                path, f"{key}: a part has {b.content.nbytes:,} bytes, not {math.prod(b.shape) * itemsize:,}"
            )
        if any(o + n > whole for o, n, whole in zip(b.offsets, b.shape, shape, strict=True)):
            raise RepairError(path, f"{key}: a part reaches beyond it")
    try:
        # Every line of a run of lines is cut in the same way: the first of each tells.
        for _ in _runs(shape, itemsize, distinct, first=True):
            pass
    except ValueError as error:
        raise RepairError(path, f"{key}: {error}") from None
    return Pieces(nbytes, lambda: _runs(shape, itemsize, distinct, first=False))


def _runs(shape: tuple[int, ...], itemsize: int, boxes: Sequence[Box], *, first: bool) -> Iterator[Run]:
    if math.prod(shape):
        yield from _level(0, shape, itemsize, [(b, 0) for b in boxes], first=first)


def _level(
    dim: int, shape: tuple[int, ...], itemsize: int, boxes: Sequence[tuple[Box, int]], *, first: bool
) -> Iterator[Run]:
    """Runs of the part of a tensor that has certain indices in the dimensions before ``dim``.

    Args:
        dim: Which dimension is gone along.
        shape: Of the tensor.
        itemsize: Bytes of an element.
        boxes: Parts with those indices, each with the element at which it begins there.
        first: Only the first of indices that are cut in the same way.
    """
    if dim == len(shape):
        if len(boxes) != 1:
            raise ValueError("a value is in no part" if not boxes else "its parts overlap")
        box, at = boxes[0]
        yield Run(box.content, at * itemsize, itemsize)
        return
    cuts = sorted({0, shape[dim], *(c for b, _ in boxes for c in (b.offsets[dim], b.offsets[dim] + b.shape[dim]))})
    for start, end in itertools.pairwise(cuts):
        here = [(b, at) for b, at in boxes if b.offsets[dim] <= start and end <= b.offsets[dim] + b.shape[dim]]
        if not here:
            raise ValueError("a part of it is in no file")
        if len(here) == 1 and here[0][0].shape[dim + 1 :] == shape[dim + 1 :]:
            box, at = here[0]
            step = math.prod(box.shape[dim + 1 :])
            yield Run(box.content, (at + (start - box.offsets[dim]) * step) * itemsize, (end - start) * step * itemsize)
            continue
        for index in range(start, start + 1 if first else end):
            below = [(b, at + (index - b.offsets[dim]) * math.prod(b.shape[dim + 1 :])) for b, at in here]
            yield from _level(dim + 1, shape, itemsize, below, first=first)

"""Folders of torch.distributed.checkpoint as one file, in bounded memory.

Sources: ``_EmptyStateDictLoadPlanner`` in ``torch/distributed/checkpoint/default_planner.py`` and ``set_element`` in
``_traverse.py`` of torch 2.13, which say how the flat names become nested again; ``_load_distributed_checkpoint`` in
``lightning/fabric/utilities/load.py`` of Lightning 2.6, which lays ``meta.pt`` over the result.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from relight.core.checkpoint import Checkpoint, Layout
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError, SourceError
from relight.core.objects import Call, DictNode, ListNode, Value, mapping_get, mapping_pairs
from relight.reader import DEFAULT_LIMITS, open_checkpoint, safetensors
from relight.reader.detect import read as read_source
from relight.reader.pickle_vm import decode
from relight.reader.source import LocalSource, SliceSource
from relight.reader.tensors import dtype_of, sizes_of
from relight.repair.material import Material, described, sound
from relight.repair.merging import Merged, read_tensor, values_of
from relight.repair.proving import changed, damage
from relight.repair.sharded_material import Box, folder_material, put_together
from relight.repair.stored import FileRange, Files, Stored

_OPTIMIZER = re.compile(r"optimizer_(\d+)\Z")
_MODELS = frozenset({"state_dict", "model", "module"})
_LONGEST = 10_000_000  # places of a list that a path may ask for


class _Item(NamedTuple):
    """Where one piece of one value is."""

    offsets: tuple[int, ...] | None
    file: str
    start: int
    length: int


def of_dcp(path: str, files: Files, checkpoint: Checkpoint, lost: dict[str, str] | None = None) -> Material:
    """What such a folder is made of.

    Args:
        path: The folder.
        files: Opens its files.
        checkpoint: What was read of it.
        lost: Where given, the folder may be damaged: gets what is not whole, and why, by name. A tensor of the model is
            lost by itself, anything else with all of its entry at the top, since a part of it may mean nothing.

    Raises:
        RepairError: It is not whole: what is missing is named. Or its items were compressed by somebody's extension.
    """
    if lost is None:
        sound(checkpoint, path)
    if ".metadata" not in checkpoint.files:
        raise RepairError(path, "nothing of it can be had: there is no .metadata, which says what the shards hold")
    state = decode(
        files.read(os.path.join(path, ".metadata"), 0, _size(path, ".metadata")), limits=DEFAULT_LIMITS
    ).value
    if not isinstance(state, Call):
        raise RepairError(path, ".metadata describes no state")
    items = _items(path, mapping_get(state.state, "storage_data"))
    paths = {
        k: v for k, v in mapping_pairs(mapping_get(state.state, "planner_data")) or () if isinstance(k, str)
    }  # fmt: skip
    merged = Merged(files)
    root: dict[str, _Built] = {}
    flattened = False
    broken: dict[str, str] = {}
    for name, said in mapping_pairs(mapping_get(state.state, "state_dict_metadata")) or ():
        if not isinstance(name, str) or not isinstance(said, Call):
            continue
        steps = paths.get(name)
        where = steps if isinstance(steps, tuple) and steps else (name,)
        before = len(files.recorded)
        try:
            value = _value(path, files, merged, name, said, items.get(name, []))
            if lost is not None:
                _need_intact(files, before)
        except RepairError as error:
            if lost is None:
                raise
            if len(where) == 1 or (len(where) == 2 and where[0] in _MODELS):
                lost[str(where[-1])] = error.reason
            else:
                broken.setdefault(str(where[0]), f"{name}: {error.reason}")
            continue
        flattened = flattened or (len(where) > 1 and not said.name.endswith("TensorStorageMetadata"))
        _set(path, root, where, value)
    for entry, reason in broken.items():
        root.pop(entry, None)
        if lost is not None:
            lost[entry] = reason
    changes = _numbers_again(root)
    meta = os.path.join(path, "meta.pt")
    rest = open_checkpoint(meta) if os.path.isfile(meta) else None
    if rest is not None and not _usable(rest, meta, lost):
        rest = None
    if rest is not None:
        pairs = mapping_pairs(merged.tree(rest.root, rest, meta)) or ()
        root |= {k: v for k, v in pairs if isinstance(k, str)}
        changes += _as_lightning(root)
    out = described(folder_material(path, files, checkpoint, root=_tree(root), storages=merged.storages))
    out.changes += changes
    if flattened and rest is None:
        out.left_out.append(("empty dicts and lists", "this layout does not record them"))
    return out


def _size(path: str, name: str) -> int:
    """Bytes of one file.

    Raises:
        RepairError: It is not there.
    """
    try:
        return os.path.getsize(os.path.join(path, name))
    except OSError:
        raise RepairError(path, f"{name} is missing") from None


def _need_intact(files: Files, before: int) -> None:
    """Compare the checksums of what was found since.

    Raises:
        RepairError: One is wrong.
    """
    for place in list(itertools.islice(reversed(files.recorded), len(files.recorded) - before)):
        if changed(files.recorded[place]):
            raise RepairError(place[0], damage(files.recorded[place]))


def _usable(rest: Checkpoint, meta: str, lost: dict[str, str] | None) -> bool:
    """Whether ``meta.pt`` is whole.

    Raises:
        RepairError: It is not, and nothing may be lost.
    """
    try:
        sound(rest, meta)
    except RepairError as error:
        if lost is None:
            raise
        lost["meta.pt"] = error.reason.removeprefix("nothing is written, ")
        return False
    return True


def _items(path: str, stored: Value) -> dict[str, list[_Item]]:
    out: dict[str, list[_Item]] = {}
    for index, info in mapping_pairs(stored) or ():
        if not isinstance(index, Call) or not isinstance(info, Call):
            continue
        name, file = mapping_get(index.state, "fqn"), mapping_get(info.state, "relative_path")
        start, length = mapping_get(info.state, "offset"), mapping_get(info.state, "length")
        if mapping_get(info.state, "transform_descriptors") is not None:
            raise RepairError(path, f"{name!r} was written through an extension, which only its own program undoes")
        if isinstance(name, str) and isinstance(file, str) and isinstance(start, int) and isinstance(length, int):
            offsets = sizes_of(mapping_get(index.state, "offset"))
            out.setdefault(name, []).append(_Item(offsets, file, start, length))
    return out


def _value(path: str, files: Files, merged: Merged, name: str, said: Call, items: Sequence[_Item]) -> Value:
    if not said.name.endswith("TensorStorageMetadata"):
        if len(items) != 1:
            raise RepairError(path, f"{name}: the metadata know {len(items)} places of it")
        item = items[0]
        inner = _read(path, item, name)
        return merged.tree(inner.root, inner, os.path.join(path, item.file), item.start)
    shape = sizes_of(mapping_get(said.state, "size"))
    properties = mapping_get(said.state, "properties")
    state = properties.state if isinstance(properties, Call) else None
    parts = state if isinstance(state, tuple) else tuple(v for _, v in mapping_pairs(state) or ())
    dtype = next((d for d in map(dtype_of, parts) if d is not None), None)
    chunks = mapping_get(said.state, "chunks")
    if shape is None or dtype is None or dtype not in BY_NAME or not isinstance(chunks, ListNode):
        raise RepairError(path, f"{name}: its description makes no sense")
    boxes: list[Box] = []
    for chunk in chunks.items:
        offsets = sizes_of(mapping_get(chunk.state, "offsets")) if isinstance(chunk, Call) else None
        sizes = sizes_of(mapping_get(chunk.state, "sizes")) if isinstance(chunk, Call) else None
        if offsets is None or sizes is None:
            raise RepairError(path, f"{name}: its pieces make no sense")
        found = next((i for i in items if (i.offsets or (0,) * len(offsets)) == offsets), None)
        if found is None:
            raise RepairError(path, f"{name}: the piece at {list(offsets)} is in no file")
        boxes.append(Box(offsets, sizes, _piece(path, files, name, found, dtype, sizes)))
    return merged.tensor(dtype, shape, put_together(path, name, shape, BY_NAME[dtype].itemsize, boxes))


def _piece(path: str, files: Files, name: str, item: _Item, dtype: str, sizes: tuple[int, ...]) -> Stored:
    """The values of one piece."""
    file, size = os.path.join(path, item.file), _size(path, item.file)
    head = files.read(file, 0, min(16, size))
    if safetensors.looks_like(head, size):
        # SerializationFormat.SAFETENSORS: the file is one of safetensors, and offsets in the metadata say nothing.
        found = open_checkpoint(file)
        entry = next((t for t in found.tensors if t.key == name), None)
        storage = found.storages.get(name)
        if entry is None or storage is None or storage.span is None or (entry.dtype, entry.shape) != (dtype, sizes):
            raise RepairError(path, f"{name}: {item.file} does not have the piece that the metadata describe")
        return FileRange(files, file, storage.span.start, storage.nbytes)
    inner = _read(path, item, name)
    entry = read_tensor(inner.root, inner)
    if entry is None or (entry.dtype, entry.shape) != (dtype, sizes):
        raise RepairError(path, f"{name}: {item.file} does not have the piece that the metadata describe")
    return values_of(files, entry, inner, file, item.start)


def _read(path: str, item: _Item, name: str) -> Checkpoint:
    """One item of a file of items: each is a file of torch.save by itself."""
    try:
        source = LocalSource(os.path.join(path, item.file))
    except SourceError as error:
        raise RepairError(path, f"{item.file}: {error.reason}") from None
    try:
        inner = read_source(SliceSource(source, item.start, item.length, f"{item.file}: {name}"))
    finally:
        source.close()
    bad = next((p.message for p in inner.problems if p.fatal), None)
    if bad is None and inner.stream is None:
        bad = "it is no file of torch.save"
    if inner.layout is Layout.NOT_A_CHECKPOINT or bad is not None:
        raise RepairError(path, f"{item.file}: {name}: {bad or inner.problems[0].message}")
    return inner


# ---------------------------------------------------------------- nested again

_Built = Any  # dict and list while it is built; leaves are values of a pickle, which are neither


def _set(path: str, root: dict[str, _Built], steps: tuple[Value, ...], value: Value) -> None:
    """Put a value where the steps lead: a number means a list, a text a dict, as torch reads them."""
    holder: _Built = root
    for i, here in enumerate(steps):
        last = i == len(steps) - 1
        fresh: _Built = value if last else ([] if isinstance(steps[i + 1], int) else {})
        if isinstance(holder, list) and type(here) is int and 0 <= here < _LONGEST:
            holder += [None] * (here + 1 - len(holder))
            if last or holder[here] is None:
                holder[here] = fresh
        elif isinstance(holder, dict) and type(here) is str:
            if last:
                holder[here] = fresh
            else:
                holder.setdefault(here, fresh)
        else:
            raise RepairError(path, f"the place of {'.'.join(map(str, steps))} makes no sense")
        holder = holder[here]


def _tree(built: _Built) -> Value:
    """What was built, as a tree; paths are as deep as a state is nested, which is not much."""
    if isinstance(built, dict):
        return DictNode([(k, _tree(v)) for k, v in built.items()])
    if isinstance(built, list):
        return ListNode([_tree(v) for v in built])
    value: Value = built
    return value


def _numbers_again(root: dict[str, _Built]) -> list[tuple[str, str]]:
    """The states of optimizers are numbered, and this layout makes texts of the numbers: torch would drop them all.

    They are numbers again where the parameter groups beside them list those very numbers.
    """
    found = 0
    todo: list[_Built] = [root]
    while todo:
        built = todo.pop()
        if isinstance(built, list):
            todo += built
        if not isinstance(built, dict):
            continue
        todo += built.values()
        state, groups = built.get("state"), built.get("param_groups")
        if isinstance(groups, ListNode):  # torch before 2.3 kept them as one value
            groups = [dict(mapping_pairs(g) or ()) for g in groups.items if isinstance(g, DictNode)]
        if isinstance(state, dict) and isinstance(groups, list) and state:
            listed = {n for group in groups if isinstance(group, dict) for n in _listed(group.get("params"))}
            if all(isinstance(k, str) and k.isdecimal() and int(k) in listed for k in state):
                built["state"] = {int(k): v for k, v in state.items()}
                found += 1
    return (
        [("optimizer states", "by the numbers of their parameters, which the layout keeps as texts")] if found else []
    )


def _listed(params: _Built) -> list[int]:
    items = params.items if isinstance(params, ListNode) else params
    return [n for n in items if type(n) is int] if isinstance(items, list) else []


def _as_lightning(root: dict[str, _Built]) -> list[tuple[str, str]]:
    """Lightning's FSDP strategy keeps the model and each optimizer under keys of their own.

    Source: ``_format_checkpoint`` in ``lightning/fabric/utilities/consolidate_checkpoint.py`` of Lightning 2.2.
    """
    changes = []
    if "state_dict" not in root and isinstance(root.get("model"), dict):
        root["state_dict"] = root.pop("model")
        changes.append(("model", "-> state_dict"))
    numbers = sorted(int(m.group(1)) for m in map(_OPTIMIZER.match, root) if m is not None)
    if numbers and numbers == list(range(len(numbers))) and "optimizer_states" not in root:
        root["optimizer_states"] = [root.pop(f"optimizer_{n}") for n in numbers]
        changes.append((f"optimizer_0 to {numbers[-1]}" if len(numbers) > 1 else "optimizer_0", "-> optimizer_states"))
    return changes

"""Folders that torch.distributed.checkpoint writes: ``.metadata`` is a pickle that says what the shards hold.

Sources: ``torch/distributed/checkpoint/metadata.py`` and ``filesystem.py`` of torch 2.13. Each item of a shard file is
a file of torch.save by itself, at an offset that the metadata give. Lightning adds ``meta.pt`` with all that is no
tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, StreamFacts, TensorEntry
from relight.core.errors import SourceError
from relight.core.objects import Call, DictNode, ObjectPath, Value, mapping_get, mapping_pairs
from relight.reader import safetensors
from relight.reader.folder import Folder, plain_name
from relight.reader.pickle_vm import decode
from relight.reader.source import LocalSource, SliceSource
from relight.reader.tensors import dtype_of, sizes_of

_PREFIXES = ("state_dict.", "model.", "module.")
_MANY_ITEMS = 10_000
_HEAD = 16


@dataclass(frozen=True, slots=True)
class _Item:
    """One item of a shard file."""

    key: str
    file: str
    offset: int
    length: int


def read(folder: Folder) -> Checkpoint:
    """Read the metadata, look at every item, and list the tensors with their whole shapes."""
    main = folder.read("meta.pt") if "meta.pt" in folder.files else None
    if ".metadata" not in folder.files:
        folder.problem(
            ProblemKind.RECORD_MISSING, "there is no .metadata: nothing says what the shards hold", ".metadata"
        )
        return folder.checkpoint(Layout.DCP, "dcp", main)
    raw = folder.bytes_of(".metadata", folder.limits.pickle_bytes)
    decoded = decode(raw, limits=folder.limits, record=".metadata")
    folder.problems += decoded.problems
    folder.pickles.append(decoded.pickled(".metadata"))
    state = decoded.value.state if isinstance(decoded.value, Call) else None
    described = mapping_get(state, "state_dict_metadata")
    if decoded.stream.end is not None and mapping_pairs(described) is None:
        folder.problem(ProblemKind.PICKLE_MALFORMED, "the metadata describe no state_dict", ".metadata")
    items = list(_items(folder, mapping_get(state, "storage_data")))
    values = _look(folder, items)
    tensors = list(_tensors(described))
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key, _, _ in tensors)), "")
    entries: list[TensorEntry] = []
    lost: list[TensorEntry] = []
    refused: dict[str, str] = {}
    bad = _incomplete(folder, items) | _bad_safetensors(folder, items)
    for name, dtype, shape in tensors:
        if not name.startswith(prefix):
            continue
        key = name[len(prefix) :]
        path = ObjectPath((prefix[:-1], key)) if prefix else ObjectPath((key,))
        entry = TensorEntry(key, dtype, shape, (), 0, None, "cpu", path, layout="distributed")
        if name in bad:
            refused[key] = bad[name]
            lost.append(entry)
        else:
            entries.append(entry)
    folder.rest({"meta.pt", ".metadata"})
    out = folder.checkpoint(Layout.DCP, "dcp", main)
    if main is None and values:
        out = replace(out, root=DictNode(list(values.items())), stream=StreamFacts(2, {}, 0))
    return replace(
        out,
        state_dict_path=ObjectPath((prefix[:-1],)) if prefix else (ObjectPath() if tensors else None),
        tensors=tuple(entries),
        lost=tuple(lost),
        refused=refused,
        problems=(_summary(out, items), *out.problems[1:]),
    )


def _summary(checkpoint: Checkpoint, items: list[_Item]) -> Problem:
    shards = len({item.file for item in items})
    return replace(
        checkpoint.problems[0],
        message=f"a folder of torch.distributed.checkpoint: {len(items):,} items in {shards:,} files",
        details={"items": len(items), "files": shards},
    )


def _tensors(described: Value) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, whole shape) of every tensor."""
    for name, value in mapping_pairs(described) or ():
        if not isinstance(name, str) or not isinstance(value, Call) or not value.name.endswith("TensorStorageMetadata"):
            continue
        properties, shape = mapping_get(value.state, "properties"), sizes_of(mapping_get(value.state, "size"))
        if shape is None or not isinstance(properties, Call):
            continue
        state = properties.state
        parts = state if isinstance(state, tuple) else tuple(v for _, v in mapping_pairs(state) or ())
        dtype = next((d for d in map(dtype_of, parts) if d is not None), None)
        if dtype is not None:
            yield name, dtype, shape


def _items(folder: Folder, stored: Value) -> Iterator[_Item]:
    for index, info in mapping_pairs(stored) or ():
        if not isinstance(index, Call) or not isinstance(info, Call):
            continue
        key, file = mapping_get(index.state, "fqn"), mapping_get(info.state, "relative_path")
        offset, length = mapping_get(info.state, "offset"), mapping_get(info.state, "length")
        if not isinstance(key, str) or not isinstance(offset, int) or not isinstance(length, int):
            folder.problem(ProblemKind.PICKLE_MALFORMED, "an item of the metadata makes no sense", ".metadata")
        elif not isinstance(file, str) or not plain_name(file):
            message = f"{key} is said to be in {str(file)[:80]!r}, which is no file of this folder"
            folder.problem(ProblemKind.ARCHIVE_MALFORMED, message, ".metadata")
        else:
            yield _Item(key, file, offset, length)


def _incomplete(folder: Folder, items: list[_Item]) -> dict[str, str]:
    """Why an item is not (all) there, by name; each file is reported once."""
    bad: dict[str, str] = {}
    said: set[str] = set()
    used = {item.file for item in items}
    for item in items:
        size = folder.files.get(item.file)
        if size is None:
            bad[item.key] = f"{item.file} is missing"
            if item.file not in said:
                count = sum(1 for i in items if i.file == item.file)
                message = f"the metadata need this file for {count:,} items, and it is not there"
                folder.problem(ProblemKind.RECORD_MISSING, message, item.file)
        elif item.offset < 0 or item.length < 0 or item.offset + item.length > size:
            bad[item.key] = f"{item.file} ends before it"
            if item.file not in said:
                message = f"{item.key} ends at byte {item.offset + item.length:,} of a file of {size:,}"
                folder.problem(ProblemKind.RECORD_SHORT, message, item.file)
        else:
            continue
        said.add(item.file)
    for name in folder.files:
        if name.endswith(".distcp") and name not in used:
            folder.problem(ProblemKind.BYTES_AFTER, "no item of the metadata is in this file", name, fatal=False)
    return bad


def _bad_safetensors(folder: Folder, items: list[_Item]) -> dict[str, str]:
    """Why an item is not whole, by name, where ``SerializationFormat.SAFETENSORS`` made each file one of safetensors.

    The offsets and lengths in the metadata then say nothing: they were taken before the file had its header.
    """
    bad: dict[str, str] = {}
    by_file: dict[str, list[str]] = {}
    for item in items:
        if item.file in folder.files:
            by_file.setdefault(item.file, []).append(item.key)
    for file, keys in by_file.items():
        if not safetensors.looks_like(folder.bytes_of(file, _HEAD), folder.files[file]):
            continue
        checkpoint = folder.read(file)
        here = {t.key for t in checkpoint.tensors} if checkpoint is not None else set()
        bad |= {key: f"{file} does not have it whole" for key in keys if key not in here}
    return bad


def _look(folder: Folder, items: list[_Item]) -> dict[Value, Value]:
    """Read every item as the file of torch.save that it is; gives those that are values at the top of the state."""
    values: dict[Value, Value] = {}
    by_file: dict[str, list[_Item]] = {}
    for item in items[:_MANY_ITEMS]:
        size = folder.files.get(item.file, 0)
        if item.offset >= 0 and item.length > 0 and item.offset + item.length <= size:
            by_file.setdefault(item.file, []).append(item)
    for file, listed in by_file.items():
        try:
            source = LocalSource(os.path.join(folder.path, file))
        except SourceError:
            continue
        try:
            for item in listed:
                head = source.read(item.offset, 4)
                if head != b"PK\x03\x04" and head[:1] != b"\x80":
                    continue  # the bytes of a tensor as they are
                name = f"{file}: {item.key}"
                inner = folder.read_file(SliceSource(source, item.offset, item.length, name))
                folder.pickles += [replace(p, where=name) for p in inner.pickles]
                if inner.stream is not None and "." not in item.key:
                    values[item.key] = inner.root
        finally:
            source.close()
        folder.bytes_read += source.bytes_read
    return values

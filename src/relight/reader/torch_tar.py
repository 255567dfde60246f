"""Files of torch before 0.1.10: a tar archive of ``sys_info``, ``pickle``, ``storages`` and ``tensors``.

Source: ``_load`` (``legacy_load``) in ``torch/serialization.py`` of torch 2.13, which still reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, Record, Span, StorageEntry
from relight.core.dtypes import BY_NAME, BY_STORAGE
from relight.core.objects import Global, Value, mapping_get
from relight.reader.assemble import Storages, assemble, unusable
from relight.reader.limits import Limits
from relight.reader.nested import Finder
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import ByteSource

_BLOCK = 512
_MEMBERS = frozenset({"sys_info", "pickle", "storages", "tensors"})


def members(source: ByteSource, limit: int) -> dict[str, Record]:
    """Members of a tar archive, by name."""
    return {record.name: record for record in _walk(source, limit)}


def is_torch(found: Mapping[str, Record]) -> bool:
    """Whether these are the members that old torch wrote."""
    return set(found) >= _MEMBERS


def _walk(source: ByteSource, limit: int) -> Iterator[Record]:
    position = 0
    while limit > 0 and position + _BLOCK <= source.size:
        limit -= 1
        header = source.read(position, _BLOCK)
        if not any(header):
            return
        try:
            size = int(header[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            return
        name = header[:100].split(b"\0")[0].decode("utf-8", "replace").removeprefix("./")
        yield Record(name, Span(position + _BLOCK, size), size)
        if size < 0:
            return
        position += _BLOCK + -(-size // _BLOCK) * _BLOCK


def read(source: ByteSource, found: Mapping[str, Record], limits: Limits) -> Checkpoint:
    """The pickle refers to tensors by number; the other members say what those are."""
    streams: dict[str, Decoded] = {}
    finder = Finder(limits)
    for name in sorted(_MEMBERS):
        record = found[name]
        length = min(record.size, limits.pickle_bytes)
        streams[name] = decode(source.read(record.span.start, length), limits=limits, record=name)
        finder.inside(streams[name], name)
    body = streams["pickle"]
    others = [streams[name].pickled(name) for name in ("sys_info", "storages", "tensors")]
    problems: list[Problem] = list(body.problems)
    if body.stream.end is None:
        return unusable(
            source, Layout.TORCH_TAR, problems, body, records=tuple(found.values()),
            pickles=(*others, *finder.collect()),
        )  # fmt: skip
    order = ">" if mapping_get(streams["sys_info"].value, "little_endian") is False else "<"
    storages = _storages(source, found["storages"], order, limits, finder)
    return assemble(
        source,
        Layout.TORCH_TAR,
        body,
        storages,
        problems=problems,
        limits=limits,
        records=tuple(found.values()),
        pickles=(*others, *finder.collect()),
        little_endian=order == "<",
    )


def _storages(source: ByteSource, record: Record, order: str, limits: Limits, finder: Finder) -> Storages:
    """A count, then for each storage a pickle ``(key, location, class)``, an element count and the bytes."""
    out = Storages()
    data = source.read(record.span.start, min(record.size, limits.pickle_bytes))
    first = decode(data, limits=limits, record="storages")
    count, position = first.value, first.stream.end
    while isinstance(count, int) and count > 0 and position is not None:
        count -= 1
        part = decode(data, position, limits=limits, record="storages")
        finder.found.append(part.pickled("storages"))
        entry = _claimed(part.value)
        if part.stream.end is None or entry is None or part.stream.end + 8 > len(data):
            message = "the list of storages breaks off"
            out.problems.append(Problem(kind=ProblemKind.TRUNCATED, message=message, fatal=True, record="storages"))
            return out
        key, dtype, device = entry
        (numel,) = struct.unpack_from(order + "q", data, part.stream.end)
        nbytes = numel * BY_NAME[dtype].itemsize
        start = part.stream.end + 8
        if numel < 0 or start + nbytes > record.size:
            message = f"storage {key} has {nbytes:,} bytes, {record.size - start:,} are left"
            out.problems.append(Problem(kind=ProblemKind.TRUNCATED, message=message, fatal=True, record="storages"))
            return out
        out.entries[key] = StorageEntry(key, dtype, device, numel, nbytes, Span(record.span.start + start, nbytes))
        position = start + nbytes
    return out


def _claimed(value: Value) -> tuple[str, str, str] | None:
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(value[2], Global):
        return None
    dtype = BY_STORAGE.get(value[2].name)
    if dtype is None or not isinstance(value[1], str) or not isinstance(value[0], (int, str)):
        return None
    return str(value[0]), dtype.name, value[1]

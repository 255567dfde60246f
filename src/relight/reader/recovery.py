"""Archives whose end is missing: what their front still tells, and which records are whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, Record, Span, StorageEntry
from relight.reader.archive import Archive
from relight.reader.assemble import Storages, assemble, claims, unusable
from relight.reader.limits import Limits
from relight.reader.nested import Finder
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import ByteSource
from relight.reader.zip_directory import DESCRIPTOR, LOCAL

_HAS_DESCRIPTOR = 0x0008
_WINDOW = 1 << 20


def read_cut_zip(source: ByteSource, archive: Archive, limits: Limits) -> Checkpoint:
    """Read data.pkl from the front, then follow the storages that it names as far as the file goes."""
    front: list[Record] = []
    decoded: Decoded | None = None
    for record in _forward(source, {}, limits.records):
        front.append(record)
        if record.name == "data.pkl":
            data = source.read(record.span.start, min(record.span.length, limits.pickle_bytes))
            decoded = decode(data, limits=limits, record="data.pkl")
            break
    if decoded is None:
        return unusable(source, Layout.TORCH_ZIP, archive.problems)
    finder = Finder(limits)
    finder.inside(decoded, "")
    if decoded.stream.end is None:
        return unusable(source, Layout.TORCH_ZIP, archive.problems, decoded, pickles=finder.collect())
    found = claims(decoded.persistents).by_key
    wanted = {f"data/{key}": claimed[0].nbytes for key, claimed in found.items()}
    whole = {r.name: r for r in _forward(source, wanted, limits.records)}
    storages = Storages()
    for key, claimed in found.items():
        claim = claimed[0]
        there = whole.get(f"data/{key}")
        intact = there is not None and there.size >= claim.nbytes
        storages.entries[key] = StorageEntry(
            key, claim.dtype, claim.device, claim.numel, claim.nbytes,
            Span(there.span.start, claim.nbytes) if there is not None and intact else None,
        )  # fmt: skip
        if not intact:
            storages.missing[key] = "the file ends before the end of its storage"
    checkpoint = assemble(
        source,
        Layout.TORCH_ZIP,
        decoded,
        storages,
        problems=[],
        limits=limits,
        records=tuple(whole.values()),
        pickles=finder.collect(),
    )
    return replace(checkpoint, problems=tuple(_counted(p, checkpoint, storages) for p in archive.problems))


def _counted(problem: Problem, checkpoint: Checkpoint, storages: Storages) -> Problem:
    """The problem, with what can still be had."""
    if problem.kind is not ProblemKind.NO_CENTRAL_DIRECTORY:
        return problem
    total, tensors = len(storages.entries), len(checkpoint.tensors) + len(checkpoint.lost)
    left = total - len(storages.missing)
    return replace(
        problem,
        message=f"{problem.message}; {left:,} of {total:,} storages are whole, "
        f"and with them {len(checkpoint.tensors):,} of {tensors:,} tensors",
        details={
            "storages": total,
            "storages_whole": left,
            "tensors": tensors,
            "tensors_whole": len(checkpoint.tensors),
            "wanted_bytes": sum(s.nbytes for s in storages.entries.values()),
            "whole_bytes": sum(s.nbytes for s in storages.entries.values() if s.span is not None),
        },
    )


def _forward(source: ByteSource, wanted: Mapping[str, int], limit: int) -> Iterator[Record]:
    """Records from the front, by their local headers; of the last one there may be less than it says.

    Torch writes sizes behind the data: where the pickle tells how large a record has to be, its descriptor is looked
    for at that place, else by its signature.
    """
    position = 0
    while limit > 0 and position + 30 <= source.size:
        limit -= 1
        header = source.read(position, 30)
        if header[:4] != LOCAL:
            return
        flags, method = struct.unpack_from("<2H", header, 6)
        crc, stored, size = struct.unpack_from("<3I", header, 14)
        name_length, extra_length = struct.unpack_from("<2H", header, 26)
        name = source.read(position + 30, name_length).decode("utf-8", "replace")
        name = name.partition("/")[2] or name
        body = position + 30 + name_length + extra_length
        if body > source.size:
            return
        if flags & _HAS_DESCRIPTOR and not stored:
            end = _descriptor(source, body, wanted.get(name))
            length = (source.size if end is None else end) - body
            said = b"" if end is None else source.read(end, 8)  # the checksum stands behind the data as well
            known = int.from_bytes(said[4:], "little") if len(said) == 8 and said.startswith(DESCRIPTOR) else 0
            yield Record(name, Span(body, length), length, method == 8, known or None)
            if end is None:
                return
            position = end + _descriptor_length(source, end)
        else:
            length = min(stored, source.size - body)
            yield Record(name, Span(body, length), size if length == stored else length, method == 8, crc or None)
            if length < stored:
                return
            position = body + stored
            if flags & _HAS_DESCRIPTOR and source.read(position, 4) == DESCRIPTOR:
                position += _descriptor_length(source, position)


def _descriptor(source: ByteSource, start: int, wanted: int | None) -> int | None:
    """Where the data descriptor behind a record is; None if the file ends before it."""
    if wanted is not None and start + wanted <= source.size:
        if source.read(start + wanted, 4) == DESCRIPTOR:
            return start + wanted
        if start + wanted + 4 > source.size:
            return source.size if start + wanted == source.size else start + wanted
    at = start
    while at < source.size:
        chunk = source.read(at, _WINDOW)
        hit = chunk.find(DESCRIPTOR)
        while hit >= 0:
            # The signature may be part of the data; the sizes behind it tell.
            size = int.from_bytes(source.read(at + hit + 8, 4), "little")
            if size == (at + hit - start) & 0xFFFFFFFF:
                return at + hit
            hit = chunk.find(DESCRIPTOR, hit + 1)
        if len(chunk) < _WINDOW:
            return None
        at += _WINDOW - 3
    return None


def _descriptor_length(source: ByteSource, at: int) -> int:
    for length in (16, 24):
        if source.read(at + length, 2) == b"PK":
            return length
    return 16

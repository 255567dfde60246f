"""A zip reader that compares: end record, directory and local headers must tell the same story.

It reads from the end of the source: one suffix, the directory if that did not hold it, and then only the records that
are asked for. What torch's own reader (miniz in caffe2/serialize/inline_container.cc) would see decides what is fatal:
torch ignores checksums of records and takes anything that stands before the archive for a broken file.

Format: PKWARE's application note, sections 4.3 (headers), 4.4 (fields) and 4.5.3 (zip64).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from relight.core.checkpoint import Problem, ProblemKind, Record, Span
from relight.reader.limits import Limits
from relight.reader.source import ByteSource

_TAIL = 64 << 10  # holds the end record, its comment and, for up to a thousand records, the directory
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_ENCRYPTED, _DESCRIPTOR = 0x0001, 0x0008
_COMPARED_LOCALS = 4000  # local headers are compared one by one up to here; beyond, only those of records that are read


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the directory."""

    name: str
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int


class Archive:
    """The records of a zip archive.

    Args:
        source: The bytes.
        limits: What reading may cost.

    Attributes:
        root: Name of the one folder that holds everything, without a slash; empty if there is none.
        records: In directory order, by names without the root folder.
        problems: What is wrong.
        usable: Whether the directory could be read.
    """

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.root = ""
        self.records: dict[str, Record] = {}
        self.problems: list[Problem] = []
        self.usable = False
        self._entries: dict[str, _Entry] = {}
        self._read_directory()

    # ------------------------------------------------------------ directory

    def _problem(self, kind: ProblemKind, message: str, *, fatal: bool = True, record: str | None = None,
                 position: int | None = None, what: str | None = None) -> None:  # fmt: skip
        self.problems.append(
            Problem(kind=kind, message=message, fatal=fatal, record=record, position=position, what=what)
        )

    def _read_directory(self) -> None:
        size = self.source.size
        start = max(size - _TAIL, 0)
        tail = self.source.read(start, size - start)
        found = self._end_record(tail, start)
        if found is None:
            self._problem(
                ProblemKind.NO_CENTRAL_DIRECTORY,
                f"the archive has no end record in its {size:,} bytes: it was cut off",
                position=size,
            )
            return
        end, count, length, offset = found
        if length > self.limits.directory_bytes or count > self.limits.records:
            self._problem(ProblemKind.LIMIT, f"the directory has {count:,} records in {length:,} bytes", what="records")
            return
        # Bytes in front of the archive move everything: the directory ends where the end record starts.
        shift = end - (offset + length)
        if shift < 0 or offset + shift < 0:
            self._problem(ProblemKind.ARCHIVE_MALFORMED, "the directory lies behind the end of the archive")
            return
        at = offset + shift
        directory = tail[at - start : at - start + length] if at >= start else self.source.read(at, length)
        self._parse(directory, count, at)
        if shift:
            self._problem(
                ProblemKind.BYTES_BEFORE,
                f"{shift:,} bytes stand before the archive",
                fatal=self.source.read(0, 4) != _LOCAL,
                position=0,
            )
        self.usable = True
        self._name_records(shift)

    def _end_record(self, tail: bytes, start: int) -> tuple[int, int, int, int] | None:
        """(position, records, directory length, directory offset) of the last end record that fits."""
        at = len(tail)
        while True:
            at = tail.rfind(_END, 0, at)
            if at < 0:
                return None
            if at + 22 > len(tail):
                continue
            disk, disk_start, here, count, length, offset, comment = struct.unpack_from("<4H2IH", tail, at + 4)
            after = len(tail) - (at + 22 + comment)
            if after < 0:
                continue
            if disk or disk_start or here != count:
                self._problem(ProblemKind.ARCHIVE_MALFORMED, "the archive claims to be split over several files")
            if after > 0:
                self._problem(
                    ProblemKind.BYTES_AFTER,
                    f"{after:,} bytes stand after the archive",
                    fatal=False,
                    position=start + at + 22 + comment,
                )
            position = start + at
            # torch up to 2.0 writes the zip64 record always, also where the plain fields suffice.
            wide = self._end_record64(tail, start, at)
            if wide is not None:
                return wide
            return position, count, length, offset

    def _end_record64(self, tail: bytes, start: int, at: int) -> tuple[int, int, int, int] | None:
        if at < 20 or tail[at - 20 : at - 16] != _LOCATOR64:
            return None
        (position,) = struct.unpack_from("<Q", tail, at - 12)
        raw = tail[position - start : position - start + 56] if position >= start else self.source.read(position, 56)
        if len(raw) < 56 or raw[:4] != _END64:
            # Bytes in front of the archive: the record stands right before its locator.
            position = start + at - 20 - 56
            raw = self.source.read(position, 56)
            if raw[:4] != _END64:
                self._problem(ProblemKind.ARCHIVE_MALFORMED, "the zip64 end record is not where its locator says")
                return None
        _, count, length, offset = struct.unpack_from("<4Q", raw, 24)
        return position, count, length, offset

    def _parse(self, directory: bytes, count: int, at: int) -> None:
        position = 0
        for _ in range(count):
            if position + 46 > len(directory) or directory[position : position + 4] != _CENTRAL:
                self._problem(
                    ProblemKind.ARCHIVE_MALFORMED,
                    f"the directory announces {count:,} records and breaks off after {len(self._entries):,}",
                    position=at + position,
                )
                return
            flags, method = struct.unpack_from("<2H", directory, position + 8)
            crc, stored, size = struct.unpack_from("<3I", directory, position + 16)
            name_length, extra_length, comment_length = struct.unpack_from("<3H", directory, position + 28)
            (offset,) = struct.unpack_from("<I", directory, position + 42)
            body = position + 46
            raw = directory[body : body + name_length]
            extra = directory[body + name_length : body + name_length + extra_length]
            if 0xFFFFFFFF in (stored, size, offset):
                size, stored, offset = _wide(extra, size, stored, offset)
            name = raw.decode("utf-8", "replace")
            if name in self._entries:
                self._problem(
                    ProblemKind.ARCHIVE_AMBIGUOUS, f"two records are called {name!r}", record=name, fatal=False
                )
            if _suspicious(name):
                self._problem(ProblemKind.ARCHIVE_AMBIGUOUS, f"a record is called {name!r}", record=name, fatal=False)
            self._entries.setdefault(name, _Entry(name, flags, method, crc, stored, size, offset))
            position = body + name_length + extra_length + comment_length
        if position != len(directory):
            self._problem(
                ProblemKind.ARCHIVE_MALFORMED,
                f"{len(directory) - position} bytes of the directory belong to no record",
                fatal=False,
            )

    def _name_records(self, shift: int) -> None:
        roots = {n.partition("/")[0] for n in self._entries if "/" in n}
        loose = [n for n in self._entries if "/" not in n]
        self.root = next(iter(roots)) if len(roots) == 1 and not loose else ""
        folded: dict[str, str] = {}
        compressed = []
        for entry in self._entries.values():
            name = entry.name[len(self.root) + 1 :] if self.root else entry.name
            if name.casefold() in folded:
                self._problem(
                    ProblemKind.ARCHIVE_AMBIGUOUS,
                    f"{name!r} and {folded[name.casefold()]!r} differ in case only",
                    record=name,
                    fatal=False,
                )
            folded[name.casefold()] = name
            if entry.flags & _ENCRYPTED:
                self._problem(ProblemKind.ENCRYPTED, "the record is encrypted", record=name)
            span = self._payload(entry, shift) if len(self._entries) <= _COMPARED_LOCALS else None
            if span is None:
                span = Span(entry.offset + shift, entry.stored)
            if entry.method not in (0, 8):
                self._problem(
                    ProblemKind.ARCHIVE_MALFORMED, f"compression method {entry.method} is unknown", record=name
                )
            elif entry.method == 8:
                compressed.append(name)
            self.records[name] = Record(
                name,
                span,
                entry.size,
                compressed=entry.method == 8,
                crc32=entry.crc if entry.crc or not entry.size else None,
            )
        if compressed:
            self._problem(
                ProblemKind.COMPRESSED_RECORDS,
                f"{len(compressed)} records are compressed: readable, but not with mmap=True",
                fatal=False,
                record=compressed[0],
            )
        self._find_overlaps()

    def _payload(self, entry: _Entry, shift: int) -> Span | None:
        """Where the stored bytes are: behind the local header, which is compared with the directory."""
        at = entry.offset + shift
        header = self.source.read(at, 30)
        if len(header) < 30 or header[:4] != _LOCAL:
            self._problem(
                ProblemKind.ARCHIVE_MALFORMED,
                "there is no local header where the directory says",
                record=entry.name,
                position=at,
            )
            return None
        flags, method = struct.unpack_from("<2H", header, 6)
        crc, stored, size = struct.unpack_from("<3I", header, 14)
        name_length, extra_length = struct.unpack_from("<2H", header, 26)
        name = self.source.read(at + 30, name_length).decode("utf-8", "replace")
        different = []
        if name != entry.name:
            different.append(f"name {name!r}")
        if method != entry.method:
            different.append(f"method {method}")
        if not flags & _DESCRIPTOR and 0xFFFFFFFF not in (stored, size):
            different += [
                f"{what} {mine}"
                for what, mine, theirs in (
                    ("size", size, entry.size),
                    ("stored size", stored, entry.stored),
                    ("CRC", crc, entry.crc),
                )
                if mine != theirs
            ]
        if different:
            self._problem(
                ProblemKind.ARCHIVE_AMBIGUOUS,
                f"local header and directory disagree: {', '.join(different)}",
                record=entry.name,
                position=at,
                fatal=False,
            )
        span = Span(at + 30 + name_length + extra_length, entry.stored)
        if span.end > self.source.size:
            self._problem(
                ProblemKind.RECORD_SHORT,
                f"the record ends {span.end - self.source.size:,} bytes behind the file",
                record=entry.name,
            )
        return span

    def _find_overlaps(self) -> None:
        spans = sorted((r.span.start, r.span.end, r.name) for r in self.records.values() if r.span.length)
        for (_, end, name), (start, _, other) in zip(spans, spans[1:], strict=False):
            if start < end:
                self._problem(
                    ProblemKind.ARCHIVE_AMBIGUOUS, f"{name!r} and {other!r} overlap", record=name, fatal=False
                )
                return

    # ------------------------------------------------------------ contents

    def locate(self, name: str) -> Span | None:
        """Where a record's stored bytes are, from its local header; None if there is no such record."""
        record = self.records.get(name)
        if record is None or len(self._entries) <= _COMPARED_LOCALS:
            return None if record is None else record.span
        entry = self._entries[f"{self.root}/{name}" if self.root else name]
        return self._payload(entry, 0)

    def read(self, name: str, limit: int) -> bytes | None:
        """A record's bytes, inflated; None where that is impossible, with the reason among the problems."""
        span = self.locate(name)
        record = self.records.get(name)
        if span is None or record is None:
            self._problem(ProblemKind.RECORD_MISSING, "there is no such record", record=name)
            return None
        if record.size > limit:
            self._problem(ProblemKind.LIMIT, f"the record has {record.size:,} bytes", record=name, what="pickle_bytes")
            return None
        raw = self.source.read(span.start, span.length)
        if len(raw) < span.length:
            self._problem(ProblemKind.RECORD_SHORT, f"{len(raw):,} of {span.length:,} bytes are there", record=name)
        return self._inflate(raw, record) if record.compressed else raw

    def _inflate(self, raw: bytes, record: Record) -> bytes | None:
        cap = min(self.limits.pickle_bytes, max(len(raw) * self.limits.inflate_ratio, 1 << 20))
        machine = zlib.decompressobj(-15)
        try:
            data = machine.decompress(raw, cap + 1)
        except zlib.error as error:
            self._problem(ProblemKind.ARCHIVE_MALFORMED, f"the record cannot be inflated: {error}", record=record.name)
            return None
        if len(data) > cap:
            self._problem(
                ProblemKind.LIMIT,
                f"the record inflates to more than {cap:,} bytes",
                record=record.name,
                what="inflate_ratio",
            )
            return None
        return data

    def check_crc(self, name: str, data: bytes) -> None:
        """Compare a record's checksum; torch does not, so a difference is not fatal by itself."""
        record = self.records.get(name)
        if record is not None and record.crc32 is not None and zlib.crc32(data) != record.crc32:
            self._problem(
                ProblemKind.CRC_MISMATCH,
                "the checksum of the record is wrong: bytes have changed",
                fatal=False,
                record=name,
            )


def _wide(extra: bytes, size: int, stored: int, offset: int) -> tuple[int, int, int]:
    """Values of the zip64 extra field, which holds only those that the plain fields could not."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if tag == 1:
            values = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            size = next(values, size) if size == 0xFFFFFFFF else size
            stored = next(values, stored) if stored == 0xFFFFFFFF else stored
            offset = next(values, offset) if offset == 0xFFFFFFFF else offset
        position += 4 + length
    return size, stored, offset


def _suspicious(name: str) -> bool:
    parts = name.split("/")
    return ".." in parts or name.startswith("/") or "\\" in name or "\0" in name


def scan_forward(source: ByteSource, limit: int = 10_000) -> Iterator[tuple[str, Span]]:
    """Records of an archive whose end is missing, from the local headers at its front.

    Torch writes sizes behind the data, so the next header has to be looked for; only stored data.pkl and small
    records are worth it. Yields (name, span); the span of the last record may be incomplete.
    """
    position = 0
    while limit > 0 and position + 30 <= source.size:
        header = source.read(position, 30)
        if header[:4] != _LOCAL:
            return
        flags, _ = struct.unpack_from("<2H", header, 6)
        _, stored, _ = struct.unpack_from("<3I", header, 14)
        name_length, extra_length = struct.unpack_from("<2H", header, 26)
        name = source.read(position + 30, name_length).decode("utf-8", "replace")
        body = position + 30 + name_length + extra_length
        if flags & _DESCRIPTOR and not stored:
            end = _next_header(source, body)
            yield name, Span(body, (end if end is not None else source.size) - body)
            if end is None:
                return
            position = end + _descriptor_length(source, end)
        else:
            yield name, Span(body, min(stored, source.size - body))
            position = body + stored
        limit -= 1


def _next_header(source: ByteSource, start: int) -> int | None:
    """Where the data descriptor behind a record is."""
    window = 1 << 20
    at = start
    while at < source.size:
        chunk = source.read(at, window)
        hit = chunk.find(b"PK\x07\x08")
        if hit >= 0:
            return at + hit
        if len(chunk) < window:
            return None
        at += window - 3
    return None


def _descriptor_length(source: ByteSource, at: int) -> int:
    for length in (16, 24):
        if source.read(at + length, 2) == b"PK":
            return length
    return 16

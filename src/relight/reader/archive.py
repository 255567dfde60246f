"""A zip reader that compares: end record, directory and local headers must tell the same story.

It reads from the end of the source: one suffix, the directory if that did not hold it, the local headers, and then
only the records that are asked for. What torch's own reader (miniz in caffe2/serialize/inline_container.cc) would see
decides what is fatal: torch ignores checksums of records, looks names up without regard to case, and takes anything
that stands before the archive for a broken file.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping

from relight.core.checkpoint import Problem, ProblemKind, Record, Span
from relight.reader.limits import Limits
from relight.reader.source import ByteSource, LocalSource, MemorySource, SliceSource
from relight.reader.zip_directory import LOCAL, Directory, Entry, read_directory

_ENCRYPTED, _DESCRIPTOR = 0x0001, 0x0008
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_WINDOW = 256 << 10  # local headers that lie close together are read together
_ALIGNMENT = 64
_MANY_PROBLEMS = 200
_MANY_VERSIONS = 16
# A field of relight's own in the local header of a data.pkl that `relight fix --in-place` appended: the size of the file
# before. The old bytes stay in front, so that the file can be cut back to what it was.
APPENDED = b"RL\x08\x00"
# Steps up, absolute names, other separators, and what a terminal or a C program would not take as part of a name.
_ODD_NAME = re.compile(rb"[\x00-\x1f\x7f\\]|^/|(?:^|/)\.\.(?:/|$)")
_DESCRIPTOR_SIZES = frozenset((0, 12, 16, 20, 24))


class Archive:
    """The records of a zip archive.

    Args:
        source: The bytes.
        limits: What reading may cost.

    Attributes:
        root: Name of the one folder that holds everything, without a slash; empty if there is none.
        in_folder: Whether the first record lies in a folder, which torch insists on.
        records: In directory order, by names without the root folder; the first of several with one name.
        doubles: Records that the directory names again, or that only a local header names: what other readers see.
        problems: What is wrong.
        usable: Whether the directory could be read.
        before: Size of the file before it was repaired in place; 0 where it was not.
        directory: As it is written; None where it could not be read.
    """

    def __init__(
        self, source: ByteSource, limits: Limits, *, version: int = 0, known: Mapping[Entry, Span] | None = None
    ) -> None:
        self.source = source
        self.limits = limits
        self.root = ""
        self.in_folder = True
        self.records: dict[str, Record] = {}
        self.doubles: list[Record] = []
        self.problems: list[Problem] = []
        self.usable = False
        self.before = 0
        self._version = version
        self._known = known or {}  # where records lie whose local headers say what the directory says
        self._inflated = 0
        self._compressed: list[str] = []
        self._folded: dict[str, str] = {}
        self._window = (0, b"")
        self._offsets: dict[str, int] = {}
        # Asking a distant source for every local header would cost a request each; those of records that are read
        # come with the record.
        self._near = isinstance(source, (LocalSource, MemorySource)) or version > 0
        self.directory = read_directory(source, limits, self.problems)
        if self.directory is not None:
            self.usable = True
            self._interpret(self.directory)

    def problem(self, kind: ProblemKind, message: str, *, fatal: bool = True, record: str | None = None,
                position: int | None = None, what: str | None = None,
                details: Mapping[str, str | int] | None = None) -> None:  # fmt: skip
        """Add a problem, unless there are too many already."""
        if len(self.problems) < _MANY_PROBLEMS:
            self.problems.append(
                Problem(kind=kind, message=message, fatal=fatal, record=record, position=position, what=what,
                        details=details or {})
            )  # fmt: skip

    def _ambiguous(self, message: str, record: str | None = None, position: int | None = None) -> None:
        self.problem(ProblemKind.ARCHIVE_AMBIGUOUS, message, fatal=False, record=record, position=position)

    # ------------------------------------------------------------ names

    def _interpret(self, directory: Directory) -> None:
        if directory.shift:
            self.problem(
                ProblemKind.BYTES_BEFORE,
                f"{directory.shift:,} bytes stand before the archive",
                fatal=self.source.read(0, 4) != LOCAL,
                position=directory.shift,
                details={"begins": self.source.read(0, 16).hex()},
            )
        self.root = _root(directory.entries)
        self.in_folder = bool(directory.entries) and "/" in directory.entries[0].name
        used: list[tuple[int, int, str]] = []
        for entry in directory.entries:
            self._add(entry, directory.shift, used)
        if self._compressed:
            self.problem(
                ProblemKind.COMPRESSED_RECORDS,
                f"{len(self._compressed)} records are compressed: readable, but not with mmap=True",
                fatal=False,
                record=self._compressed[0],
            )
        if self._near:
            used.sort()
            earlier = self._earlier(directory)
            if earlier is not None:
                # What the earlier version held is judged there; its data.pkl is still seen by who reads from the front.
                self.doubles += [r for n, r in earlier.records.items() if self.records.get(n) != r]
                self.doubles += earlier.doubles
                self.before = earlier.source.size
                used = [u for u in used if u[0] >= self.before]
            self._find_holes(used, directory, self.before)

    def _short(self, name: str) -> str:
        return name[len(self.root) + 1 :] if self.root and name.startswith(self.root + "/") else name

    def _add(self, entry: Entry, shift: int, used: list[tuple[int, int, str]]) -> None:
        name = self._short(entry.name)
        span = self._compare(entry, name, shift, used) if self._near else _expected(entry, shift)
        if span is None:
            span = Span(entry.offset + shift, 0)
        if entry.flags & _ENCRYPTED:
            self.problem(ProblemKind.ENCRYPTED, "the record is encrypted", record=name)
        if entry.method == 8:
            self._compressed.append(name)
        elif entry.method != 0:
            self.problem(ProblemKind.ARCHIVE_MALFORMED, f"compression method {entry.method} is unknown", record=name)
        elif entry.stored != entry.size and not entry.flags & _ENCRYPTED:
            message = f"a record that is not compressed has two sizes: {entry.stored:,} and {entry.size:,}"
            self.problem(ProblemKind.ARCHIVE_MALFORMED, message, record=name)
        crc = entry.crc if entry.crc or not entry.size else None
        record = Record(name, span, entry.size, entry.method == 8, crc)
        if _suspicious(entry.raw):
            self._ambiguous(f"a record is called {entry.name!r}", name)
        folded = name.casefold()
        if folded in self._folded:
            other = self._folded[folded]
            same = other == name
            self._ambiguous(
                f"two records are called {name!r}" if same else f"{name!r} and {other!r} differ in case only", name
            )
            if same:
                self.doubles.append(record)
                return
        self._folded[folded] = name
        self.records[name] = record
        if not self._near:
            self._offsets[name] = entry.offset + shift

    # ------------------------------------------------------------ local headers

    def _bytes(self, start: int, length: int) -> bytes:
        """A few bytes, through a window: local headers of small records lie close together."""
        at, window = self._window
        if not (at <= start and start + length <= at + len(window)):
            window = self.source.read(start, max(length, _WINDOW if self._dense else 256))
            self._window = (start, window)
            at = start
        return window[start - at : start - at + length]

    @property
    def _dense(self) -> bool:
        # Where records are 4 KiB apart on average, reading on is cheaper than asking again.
        return bool(self.records) and self.source.size < 4096 * max(len(self.records), 64)

    def _compare(self, entry: Entry, name: str, shift: int, used: list[tuple[int, int, str]]) -> Span | None:
        """Where the stored bytes are: behind the local header, which is compared with the directory."""
        at = entry.offset + shift
        known = None if shift else self._known.get(entry)
        if known is not None and known.end <= self.source.size:
            used.append((at, known.end, name))
            return known
        name_end = 30 + len(entry.raw)
        head = self._bytes(at, name_end) if at < self.source.size else b""
        header, said = head[:30], head[4:28]
        if (
            (said == entry.plain or (said == entry.deferred and entry.flags & _DESCRIPTOR))
            and head[30:] == entry.raw
            and head[:4] == LOCAL
        ):
            # Equal byte for byte, as torch writes them: nothing to compare field by field.
            span = Span(at + name_end + head[28] + (head[29] << 8), entry.stored)
            if span.end <= self.source.size:
                used.append((at, span.end, name))
                return span
        if len(header) < 30 or header[:4] != LOCAL:
            message = "there is no local header where the directory says"
            self.problem(ProblemKind.ARCHIVE_MALFORMED, message, record=name, position=at)
            return None
        _, _, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        raw = self._bytes(at + 30, name_length)
        different = []
        if method != entry.method:
            different.append(f"method {method}")
        if (flags ^ entry.flags) & _ENCRYPTED:
            different.append("whether it is encrypted")
        # With a descriptor, torch leaves sizes and checksum of the local header at zero.
        if crc or stored or size or not flags & _DESCRIPTOR:
            different += _differences((size, stored, crc), entry, bool(flags & _DESCRIPTOR))
        span = Span(at + 30 + name_length + extra_length, entry.stored)
        if raw != entry.raw:
            other = raw.decode("utf-8", "replace")
            different.append(f"name {other!r}")
            self.doubles.append(Record(self._short(other), span, entry.size, method == 8, None))
        if different:
            self._ambiguous(f"local header and directory disagree: {', '.join(different)}", name, at)
        if span.end > self.source.size:
            message = f"the record ends {span.end - self.source.size:,} bytes behind the file"
            self.problem(ProblemKind.RECORD_SHORT, message, record=name)
        used.append((at, span.end, name))
        return span

    def _earlier(self, directory: Directory) -> Archive | None:
        """The archive that this one was before it was repaired in place; None where that is not what it is.

        It has to be a sound archive by itself, and every record but the new ones has to be where it was.
        """
        entry = next((e for e in reversed(directory.entries) if self._short(e.name) == "data.pkl"), None)
        if entry is None or directory.shift or self._version >= _MANY_VERSIONS:
            return None
        size = entry.offset
        head = self.source.read(size, 30)
        if not 0 < size < self.source.size or len(head) < 30:
            return None
        names, extras = _LOCAL_HEADER.unpack(head)[9:]
        if APPENDED + struct.pack("<Q", size) not in self.source.read(size + 30 + names, extras):
            return None
        # Both directories name the same records in the same bytes: what was compared once is not compared again.
        same = {} if self.problems else {e: self.records[self._short(e.name)].span for e in directory.entries}
        front = SliceSource(self.source, 0, size, self.source.name)
        earlier = Archive(front, self.limits, version=self._version + 1, known=same)
        sound = earlier.usable and all(p.kind is ProblemKind.COMPRESSED_RECORDS for p in earlier.problems)
        if not sound or earlier.root != self.root:
            return None
        kept = [r for r in self.records.values() if r.span.start < size]
        return earlier if all(earlier.records.get(r.name) == r for r in kept) else None

    def _find_holes(self, used: list[tuple[int, int, str]], directory: Directory, start_at: int) -> None:
        """Records that overlap, and bytes between them that belong to none: a place that other readers may see."""
        position, last = start_at or directory.shift, "the start"
        for start, end, name in (*used, (directory.start, directory.start, "the directory")):
            if start < position:
                if last != "the start":
                    self._ambiguous(f"{last!r} and {name!r} overlap", name, start)
                return
            # Behind a record its descriptor may follow.
            if start - position not in _DESCRIPTOR_SIZES:
                gap = self.source.read(position, min(start - position, self.limits.verified_bytes))
                if any(gap):
                    message = f"{start - position:,} bytes between {last!r} and {name!r} belong to no record"
                    self._ambiguous(message, None, position)
                    self.doubles.extend(_hidden(gap, position))
            position, last = max(end, position), name

    # ------------------------------------------------------------ contents

    def find(self, name: str) -> str | None:
        """The record that torch would take for a name, which it compares without regard to case."""
        if name in self.records:
            return name
        return self._folded.get(name.casefold())

    def read(self, name: str, limit: int) -> bytes | None:
        """A record's bytes, inflated; None where that is impossible, with the reason among the problems."""
        record = self.records.get(name)
        if record is None:
            self.problem(ProblemKind.RECORD_MISSING, "there is no such record", record=name)
            return None
        if not self._near:
            record = self._located(record)
        if record.size > limit:
            message = f"the record has {record.size:,} bytes"
            self.problem(ProblemKind.LIMIT, message, record=name, what="pickle_bytes")
            return None
        return self.content(record)

    def _located(self, record: Record) -> Record:
        """The same record, with its place taken from its local header."""
        at = self._offsets[record.name]
        header = self.source.read(at, 30)
        if len(header) < 30 or header[:4] != LOCAL:
            message = "there is no local header where the directory says"
            self.problem(ProblemKind.ARCHIVE_MALFORMED, message, record=record.name, position=at)
            return record
        fields = _LOCAL_HEADER.unpack(header)
        span = Span(at + 30 + fields[9] + fields[10], record.span.length)
        return Record(record.name, span, record.size, record.compressed, record.crc32)

    def content(self, record: Record) -> bytes | None:
        """The bytes of one record, within the limits; None where it cannot be inflated."""
        length = min(record.span.length, self.limits.pickle_bytes)
        raw = self.source.read(record.span.start, length)
        if len(raw) < record.span.length:
            message = f"{len(raw):,} of {record.span.length:,} bytes are there"
            self.problem(ProblemKind.RECORD_SHORT, message, record=record.name)
        if not record.compressed:
            return raw
        data = self._inflate(raw, record)
        if data is not None and len(data) != record.size:
            message = f"the record inflates to {len(data):,} bytes, the directory says {record.size:,}"
            self.problem(ProblemKind.RECORD_SHORT, message, record=record.name)
        return data

    def _inflate(self, raw: bytes, record: Record) -> bytes | None:
        cap = min(self.limits.pickle_bytes, max(len(raw) * self.limits.inflate_ratio, 1 << 20))
        machine = zlib.decompressobj(-15)
        try:
            data = machine.decompress(raw, cap + 1)
        except zlib.error as error:
            message = f"the record cannot be inflated: {error}"
            self.problem(ProblemKind.ARCHIVE_MALFORMED, message, record=record.name)
            return None
        self._inflated += len(data)
        if len(data) > cap or self._inflated > 4 * self.limits.pickle_bytes:
            message = f"the record inflates to more than {cap:,} bytes"
            self.problem(ProblemKind.LIMIT, message, record=record.name, what="inflate_ratio")
            return None
        return data

    def check_crc(self, record: Record, data: bytes) -> None:
        """Compare a record's checksum; torch does not, so a difference is not fatal by itself."""
        if record.crc32 is not None and zlib.crc32(data) != record.crc32:
            self.problem(
                ProblemKind.CRC_MISMATCH,
                "the checksum of the record is wrong: bytes have changed",
                fatal=False,
                record=record.name,
            )

    def check_small(self) -> None:
        """Compare all checksums of a small archive: reading it in whole costs less than starting did."""
        room = self.limits.verified_bytes
        if not self._near or self.source.size > room:
            return
        for record in self.records.values():
            if record.name == "data.pkl" or record.span.end > self.source.size or record.crc32 is None:
                continue
            room -= record.size
            if room < 0:
                return  # more than the file has bytes: a bomb, or well compressed; `verify` reads it
            data = self.content(record)
            if data is not None and len(data) == record.size:
                self.check_crc(record, data)


def _differences(here: tuple[int, int, int], entry: Entry, descriptor: bool) -> list[str]:
    """Fields of a local header that are not what the directory says."""
    left_out = 0 if descriptor else None
    there = (entry.size, entry.stored, entry.crc)
    return [
        f"{what} {mine}"
        for what, mine, theirs in zip(("size", "stored size", "CRC"), here, there, strict=True)
        if mine != theirs and mine not in (left_out, 0xFFFFFFFF)
    ]


def _root(entries: tuple[Entry, ...]) -> str:
    """The folder that holds everything; torch takes that of the first record."""
    names = [e.name for e in entries]
    roots = {n.partition("/")[0] for n in names if "/" in n}
    if len(roots) == 1 and all("/" in n for n in names):
        return next(iter(roots))
    first = next((n.partition("/")[0] for n in names if "/" in n), "")
    return first if first and f"{first}/data.pkl" in names else ""


def _expected(entry: Entry, shift: int) -> Span:
    """Where a record's bytes are if torch wrote it: padded so that they start at a multiple of 64.

    Source: ``getPadding`` in caffe2/serialize/inline_container.cc.
    """
    start = entry.offset + 30 + len(entry.raw) + 4
    if entry.size >= 0xFFFFFFFF or entry.offset >= 0xFFFFFFFF:
        start += 4 + (16 if entry.size >= 0xFFFFFFFF else 0) + (8 if entry.offset >= 0xFFFFFFFF else 0)
    return Span(start + -start % _ALIGNMENT + shift, entry.stored)


def _suspicious(raw: bytes) -> bool:
    return not raw or _ODD_NAME.search(raw) is not None


def _hidden(gap: bytes, position: int) -> Iterator[Record]:
    """Records whose local headers lie where the directory knows of none."""
    at = gap.find(LOCAL)
    while 0 <= at <= len(gap) - 30:
        fields = _LOCAL_HEADER.unpack_from(gap, at)
        name = gap[at + 30 : at + 30 + fields[9]].decode("utf-8", "replace")
        body = at + 30 + fields[9] + fields[10]
        stored = fields[7] or len(gap) - body
        length = max(min(stored, len(gap) - body), 0)
        yield Record(name, Span(position + body, length), fields[8] or length, fields[3] == 8, None)
        at = gap.find(LOCAL, at + 4)

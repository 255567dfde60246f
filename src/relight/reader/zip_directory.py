"""The end record and the directory of a zip archive, as they are written: what `archive` compares and interprets.

Format: PKWARE's application note, sections 4.3 (headers), 4.4 (fields) and 4.5.3 (zip64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from relight.core.checkpoint import Problem, ProblemKind
from relight.reader.limits import Limits
from relight.reader.source import ByteSource

TAIL = 64 << 10  # holds the end record, its comment and, for up to a thousand records, the directory
END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
CENTRAL, LOCAL, DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"
_CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
_NARROW = 0xFFFFFFFF


class Entry(NamedTuple):
    """One line of the directory."""

    name: str
    raw: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int
    plain: bytes  # bytes 4 to 28 of a local header that says the same
    deferred: bytes  # the same, with sizes and checksum left to a descriptor


@dataclass(frozen=True, slots=True)
class Directory:
    """What the end of an archive says.

    Attributes:
        entries: In order, those of one name included.
        start: Where the directory starts in the file.
        shift: Bytes in front of the archive, by which all offsets are off.
        end: Where the end record starts.
        raw: Its bytes, without the end record.
    """

    entries: tuple[Entry, ...]
    start: int
    shift: int
    end: int
    raw: bytes


def read_directory(source: ByteSource, limits: Limits, problems: list[Problem]) -> Directory | None:
    """Read it from the end of the source; None, with the reason among the problems, where that cannot be done."""
    size = source.size
    start = max(size - TAIL, 0)
    tail = source.read(start, size - start)
    found = _end_record(source, tail, start, problems)
    if found is None:
        problems.append(
            Problem(
                kind=ProblemKind.NO_CENTRAL_DIRECTORY,
                message=f"the archive has no end record in its {size:,} bytes: it was cut off",
                fatal=True,
                position=size,
            )
        )
        return None
    end, count, length, offset = found
    if length > limits.directory_bytes or count > limits.records:
        message = f"the directory has {count:,} records in {length:,} bytes"
        problems.append(Problem(kind=ProblemKind.LIMIT, message=message, fatal=True, what="records"))
        return None
    # Bytes in front of the archive move everything: the directory ends where the end record starts.
    shift = end - (offset + length)
    if shift < 0 or offset + length > size:
        problems.append(_malformed("the directory lies behind the end of the archive"))
        return None
    at = offset + shift
    raw = tail[at - start : at - start + length] if at >= start else source.read(at, length)
    return Directory(_entries(raw, count, at, problems), at, shift, end, raw)


def _malformed(message: str, position: int | None = None, *, fatal: bool = True) -> Problem:
    return Problem(kind=ProblemKind.ARCHIVE_MALFORMED, message=message, fatal=fatal, position=position)


def _ambiguous(message: str, position: int | None = None) -> Problem:
    return Problem(kind=ProblemKind.ARCHIVE_AMBIGUOUS, message=message, position=position)


def _end_record(
    source: ByteSource, tail: bytes, start: int, problems: list[Problem]
) -> tuple[int, int, int, int] | None:
    """(position, records, directory length, directory offset) of the last end record that fits."""
    at = len(tail)
    skipped = False
    while True:
        at = tail.rfind(END, 0, at)
        if at < 0:
            return None
        after = -1
        if at + 22 <= len(tail):
            disk, disk_start, here, count, length, offset, comment = struct.unpack_from("<4H2IH", tail, at + 4)
            after = len(tail) - (at + 22 + comment)
        if after < 0:
            skipped = True  # its comment would reach behind the file; some readers take it all the same
            continue
        position = start + at
        if skipped:
            problems.append(_ambiguous("two places look like the end record", position))
        if disk or disk_start or here != count:
            problems.append(_malformed("the archive claims to be split over several files", position))
        if after > 0:
            problems.append(
                Problem(
                    kind=ProblemKind.BYTES_AFTER,
                    message=f"{after:,} bytes stand after the archive",
                    position=position + 22 + comment,
                )
            )
        # torch up to 2.0 writes the zip64 record always, also where the plain fields suffice.
        wide = _end_record64(source, tail, start, at, problems)
        if wide is None:
            return position, count, length, offset
        plain = ((count, 0xFFFF), (length, _NARROW), (offset, _NARROW))
        if any(value not in (there, narrow) for (value, narrow), there in zip(plain, wide[1:], strict=True)):
            problems.append(_ambiguous("the end record and its zip64 form disagree", position))
        return wide


def _end_record64(
    source: ByteSource, tail: bytes, start: int, at: int, problems: list[Problem]
) -> tuple[int, int, int, int] | None:
    if at < 20 or tail[at - 20 : at - 16] != LOCATOR64:
        return None
    (position,) = struct.unpack_from("<Q", tail, at - 12)
    raw = tail[position - start : position - start + 56] if position >= start else source.read(position, 56)
    if len(raw) < 56 or raw[:4] != END64:
        # Bytes in front of the archive: the record stands right before its locator.
        claimed, position = position, start + at - 20 - 56
        raw = source.read(position, 56)
        if len(raw) < 56 or raw[:4] != END64:
            problems.append(_malformed("the zip64 end record is not where its locator says", start + at - 20))
            return None
        _, count, length, offset = struct.unpack_from("<4Q", raw, 24)
        # Then the locator is off by as much as the directory is; by anything else, and torch finds no archive.
        if claimed + (position - offset - length) != position:
            problems.append(_malformed("the zip64 end record is not where its locator says", start + at - 20))
    _, count, length, offset = struct.unpack_from("<4Q", raw, 24)
    (rest,) = struct.unpack_from("<Q", raw, 4)
    between = start + at - 20 - (position + 12 + rest)
    if between > 0:
        # The locator counts from the start of the file: of two archives in a row, torch reads the first.
        message = f"{between:,} bytes stand behind the directory, before the end record: perhaps a second archive"
        problems.append(Problem(kind=ProblemKind.BYTES_AFTER, message=message, position=position + 12 + rest))
    return position, count, length, offset


def _entries(directory: bytes, count: int, at: int, problems: list[Problem]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    position = 0
    left_out = bytes(12)
    unpack = _CENTRAL_HEADER.unpack_from
    for _ in range(count):
        if position + 46 > len(directory) or directory[position : position + 4] != CENTRAL:
            message = f"the directory announces {count:,} records and breaks off after {len(entries):,}"
            problems.append(_malformed(message, at + position))
            return tuple(entries)
        fields = unpack(directory, position)
        flags, method, crc, stored, size = fields[3], fields[4], fields[7], fields[8], fields[9]
        name_length, extra_length, comment_length, offset = fields[10], fields[11], fields[12], fields[16]
        body = position + 46
        raw = directory[body : body + name_length]
        if _NARROW in (stored, size, offset):
            extra = directory[body + name_length : body + name_length + extra_length]
            size, stored, offset = _wide(extra, size, stored, offset)
        plain = directory[position + 6 : position + 30]
        deferred = plain[:10] + left_out + plain[22:]
        entries.append(
            Entry(raw.decode("utf-8", "replace"), raw, flags, method, crc, stored, size, offset, plain, deferred)
        )
        position = body + name_length + extra_length + comment_length
    if position != len(directory):
        message = f"{abs(len(directory) - position):,} bytes of the directory belong to no record"
        problems.append(_malformed(message, at + position, fatal=False))
    return tuple(entries)


def _wide(extra: bytes, size: int, stored: int, offset: int) -> tuple[int, int, int]:
    """Values of the zip64 extra field, which holds only those that the plain fields could not."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if tag == 1:
            values = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            size = next(values, size) if size == _NARROW else size
            stored = next(values, stored) if stored == _NARROW else stored
            offset = next(values, offset) if offset == _NARROW else offset
            break
        position += 4 + length
    return size, stored, offset

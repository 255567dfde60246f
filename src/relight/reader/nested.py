"""Other pickles of a file than the one that loading reads: behind it, inside byte strings, inside archives.

They are decoded so that what they name is known, and for nothing else.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator

from relight.core.checkpoint import Pickled, Record
from relight.core.objects import Global
from relight.reader.archive import Archive
from relight.reader.limits import Limits
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import MemorySource

_ZIP = b"PK\x03\x04"
_OBJECT_ARRAY = re.compile(rb"'descr':\s*(?:'\|O'|\[.*'\|?O')", re.DOTALL)
_MANY_IN_A_ROW = 16


def in_a_row(data: bytes, start: int, limits: Limits) -> Iterator[Decoded]:
    """Pickles that follow each other, as several calls of ``pickle.load`` would read them."""
    for _ in range(_MANY_IN_A_ROW):
        if start >= len(data):
            return
        part = decode(data, start, limits=limits)
        yield part
        if part.stream.end is None or part.stream.end <= start:
            return
        start = part.stream.end


class Finder:
    """Collects the other streams of one file, within the limits.

    Args:
        limits: How many, how deep and how large.

    Attributes:
        found: What was found.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.found: list[Pickled] = []
        self._queue: deque[tuple[str, bytes, int]] = deque()
        self._room = 4 * limits.nested_bytes

    def inside(self, decoded: Decoded, where: str, depth: int = 1) -> None:
        """Byte strings of a stream that look like pickles or archives themselves."""
        raws = [raw for _, raw in decoded.nested]
        for call in decoded.calls:
            # Protocol 2 writes bytes as text: _codecs.encode(text, "latin1").
            callee = call.callee
            if callee.__class__ is Global and isinstance(callee, Global) and callee.name == "encode" and call.args:
                text = call.args[0]
                if isinstance(text, str) and text[:1] in ("\x80", "P"):
                    raws.append(text.encode("latin-1", "replace"))
        if depth <= self.limits.nested_depth:
            for raw in raws:
                self.content(where or "a byte string", raw, depth)

    def content(self, where: str, data: bytes, depth: int = 1) -> None:
        """Bytes that are a pickle, several of them, or an archive of them."""
        if len(data) <= min(self.limits.nested_bytes, self._room):
            self._room -= len(data)
            self._queue.append((where, data, depth))

    def records(self, archive: Archive, records: Iterable[Record], where: str = "", depth: int = 1) -> None:
        """Every record of an archive that some loader may take for a pickle."""
        for record in records:
            if ".pkl" not in record.name.casefold() and not record.name.casefold().endswith(".npy"):
                continue
            if len(self._queue) >= self.limits.streams:
                return
            if record.size > self.limits.nested_bytes:
                continue
            data = archive.content(record)
            if data is not None:
                self.content(f"{where}{record.name}", data, depth)

    def collect(self) -> tuple[Pickled, ...]:
        """Follow everything that was put in, and what is inside it."""
        while self._queue and len(self.found) < self.limits.streams:
            where, data, depth = self._queue.popleft()
            if data.startswith(_ZIP):
                if depth <= self.limits.nested_depth:
                    archive = Archive(MemorySource(data), self.limits)
                    records = [*archive.records.values(), *archive.doubles]
                    self.records(archive, records, f"{where}: ", depth + 1)
                continue
            for part in in_a_row(data, npy_payload(data), self.limits):
                if part.globals or part.stream.end is not None:
                    self.found.append(part.pickled(where))
                self.inside(part, f"a byte string in {where}", depth + 1)
        return tuple(self.found)


def npy_payload(data: bytes) -> int:
    """Where the pickle of a numpy file with objects starts; 0 for anything but a numpy file, its end without one."""
    if not data.startswith(b"\x93NUMPY") or len(data) < 12:
        return 0
    wide = data[6] >= 2
    length = int.from_bytes(data[8:12] if wide else data[8:10], "little")
    start = (12 if wide else 10) + length
    return start if _OBJECT_ARRAY.search(data[:start]) else len(data)

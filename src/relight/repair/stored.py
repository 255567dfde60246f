"""Where the bytes of a new file's tensors come from: ranges of other files, pieces of several, or what is made of them.

Nothing here holds more than a few megabytes: bytes are asked for in order, chunk by chunk, and a plain range of a file
says so, because the kernel can copy it.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from relight.core.errors import RepairError, SourceError
from relight.reader.source import LocalSource

CHUNK = 4 << 20
_MOST_OPEN = 64
_BLOCK = 1 << 20
_SHORT = 64 << 10  # ranges below that are put together before they are handed on


class Files:
    """Files that are only read, opened when they are needed; a folder can have more shards than a process may open.

    Attributes:
        recorded: Ranges whose checksums the files record, by path and start: a piece of one has no checksum of its own.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, LocalSource] = OrderedDict()
        self.recorded: dict[tuple[str, int], FileRange | Inflated] = {}

    def source(self, path: str) -> LocalSource:
        """A file to read; open until some other files have been asked for.

        Raises:
            RepairError: It cannot be opened.
        """
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        try:
            source = LocalSource(path)
        except SourceError as error:
            raise RepairError(path, f"it cannot be opened: {error.reason}") from None
        self._open[path] = source
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return source

    def descriptor(self, path: str) -> int:
        """The same as a descriptor."""
        return self.source(path).descriptor

    def read(self, path: str, start: int, length: int) -> bytes:
        """All bytes of a range.

        Raises:
            RepairError: The file ends before, or the disk does not deliver them.
        """
        parts: list[bytes] = []
        try:
            while length > 0:
                part = os.pread(self.descriptor(path), length, start)
                if not part:
                    raise RepairError(path, "it has become shorter")
                parts.append(part)
                start, length = start + len(part), length - len(part)
        except OSError as error:
            raise RepairError(path, f"it cannot be read: {error.strerror or error}") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give all handles back."""
        for source in self._open.values():
            source.close()
        self._open.clear()


class Stored(Protocol):
    """The bytes of one storage.

    Attributes:
        nbytes: How many.
        crc: Their checksum where the source records one, None otherwise.
    """

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    @property
    def crc(self) -> int | None: ...  # noqa: D102

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        ...


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a file."""

    files: Files
    path: str
    start: int
    nbytes: int
    crc: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        at, end = self.start, self.start + self.nbytes
        while at < end:
            data = self.files.read(self.path, at, min(CHUNK, end - at))
            yield data
            at += len(data)

    def part(self, start: int, nbytes: int) -> FileRange:
        """A range of the range."""
        whole = start == 0 and nbytes == self.nbytes
        return FileRange(self.files, self.path, self.start + start, nbytes, self.crc if whole else None)


@dataclass(frozen=True, slots=True)
class Inflated:
    """A deflated record: its bytes are made as they are asked for.

    Attributes:
        length: How many bytes it has in the file.
    """

    files: Files
    path: str
    start: int
    length: int
    nbytes: int
    crc: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order.

        Raises:
            RepairError: It does not inflate to what the archive says.
        """
        machine = zlib.decompressobj(-15)
        made = 0
        try:
            for raw in FileRange(self.files, self.path, self.start, self.length).chunks():
                while raw:
                    data = machine.decompress(raw, CHUNK)
                    raw = machine.unconsumed_tail
                    made += len(data)
                    if made > self.nbytes:
                        break
                    if data:
                        yield data
        except zlib.error as error:
            raise RepairError(self.path, f"a record cannot be inflated: {error}") from None
        if made != self.nbytes:
            raise RepairError(self.path, f"a record inflates to {made:,} bytes, the archive says {self.nbytes:,}")


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that are there already: a handful."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self.data)

    @property
    def crc(self) -> int:
        """Their checksum."""
        return zlib.crc32(self.data)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        if self.data:
            yield self.data


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are put together in one piece when they are asked for: a tensor whose elements lie in another order."""

    nbytes: int
    make: Callable[[], bytes]
    crc: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        data = self.make()
        for at in range(0, len(data), CHUNK):
            yield data[at : at + CHUNK]


class Run(NamedTuple):
    """A range of bytes of one of several sources."""

    source: Stored
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bytes that lie in several places.

    Attributes:
        runs: Gives the places in order, each time anew.
    """

    nbytes: int
    runs: Callable[[], Iterable[Run]]
    crc: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order; short ranges are put together."""
        window = _Window()
        pending = bytearray()
        for source, start, length in _joined(self.runs()):
            if length < _SHORT:
                pending += window.read(source, start, length)
                if len(pending) >= CHUNK:
                    yield bytes(pending)
                    pending.clear()
                continue
            if pending:
                yield bytes(pending)
                pending.clear()
            yield from part_of(source, start, length)
        if pending:
            yield bytes(pending)


def _joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs that follow each other in one source, as one."""
    last: Run | None = None
    for run in runs:
        if not run.length:
            continue
        if last is not None and run.source is last.source and run.start == last.start + last.length:
            last = Run(last.source, last.start, last.length + run.length)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def part_of(source: Stored, start: int, length: int) -> Iterator[bytes]:
    """A range of the bytes of a source."""
    if isinstance(source, FileRange):
        yield from source.part(start, length).chunks()
        return
    end = start + length
    at = 0
    for data in source.chunks():
        first, last = max(start - at, 0), min(end - at, len(data))
        if first < last:
            yield data[first:last]
        at += len(data)
        if at >= end:
            return


class _Window:
    """The block of each source that was read last: pieces that are cut by columns are read in short ranges."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, tuple[Stored, int, bytes]] = OrderedDict()

    def read(self, source: Stored, start: int, length: int) -> bytes:
        known = self._blocks.get(id(source))
        if known is None or not known[1] <= start <= start + length <= known[1] + len(known[2]):
            size = min(max(_BLOCK, length), source.nbytes - start)
            known = self._blocks[id(source)] = (source, start, b"".join(part_of(source, start, size)))
            if len(self._blocks) > _MOST_OPEN:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(id(source))
        at = start - known[1]
        return known[2][at : at + length]

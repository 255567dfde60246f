"""Where a new file goes: onto the disk, or into this process, as a view of the old file with a few pieces of its own."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from relight.reader import checksum
from relight.reader.source import ByteSource, LocalSource, StreamSource
from relight.repair.copying import BUFFER, Progress, WriteBehind, copy_range, write_all

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SMALL = 256 << 10  # records below that are written together with their neighbours


class Sink(Protocol):
    """Takes the pieces of a file, from its start to its end.

    Attributes:
        small: Ranges below that are better read and written than copied.
    """

    small: int

    def write(self, data: bytes | bytearray, at: int) -> None:
        """Bytes of its own."""
        ...

    def copy(self, source: ByteSource, start: int, length: int, at: int, progress: Progress | None) -> None:
        """A range of another file."""
        ...

    def checksum(self, source: ByteSource, start: int, length: int) -> int:
        """What to record as the checksum of a range whose checksum nobody has recorded."""
        ...

    def end(self, size: int) -> None:
        """All is there."""
        ...


class FileSink:
    """A file on the disk.

    Args:
        descriptor: Of an empty file.
    """

    small = _SMALL

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._behind = WriteBehind(descriptor)

    def write(self, data: bytes | bytearray, at: int) -> None:
        """Bytes of its own."""
        write_all(self._descriptor, data, at)
        self._behind.wrote(len(data))

    def copy(self, source: ByteSource, start: int, length: int, at: int, progress: Progress | None) -> None:
        """A range of another file, by the kernel."""
        assert isinstance(source, LocalSource)

        def copied(count: int) -> None:
            self._behind.wrote(count)
            if progress is not None:
                progress(count)

        copy_range(source.descriptor, start, length, self._descriptor, at, copied)

    def checksum(self, source: ByteSource, start: int, length: int) -> int:
        """The checksum of a range, which is read for it."""
        crc, crc32 = 0, checksum.fastest()
        for position in range(start, start + length, BUFFER):
            data = source.read(position, min(BUFFER, start + length - position))
            if not data:
                raise OSError(5, "the file has become shorter")
            crc = crc32(data, crc)
        return crc

    def end(self, size: int) -> None:
        """Cut or lengthen it to its size: its last bytes may have been a hole."""
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Leave the descriptor alone.

        Raises:
            OSError: The disk did not take something.
        """
        self._behind.stop()


class Spliced(io.RawIOBase):
    """A file that is on no disk: pieces of memory, and ranges of another file that are read when they are asked for.

    It is what ``torch.load`` takes in place of a path. The other file has to stay open, and as it is.
    """

    small = 0

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[int] = []
        self._pieces: list[tuple[bytes | ByteSource, int, int]] = []
        self._position = 0
        self.size = 0

    # ------------------------------------------------------------ while it is put together

    def write(self, data: bytes | bytearray, at: int) -> None:  # type: ignore[override]
        """Bytes of its own; they come in order."""
        self._add(bytes(data), 0, len(data), at)

    def copy(self, source: ByteSource, start: int, length: int, at: int, progress: Progress | None) -> None:
        """A range of the other file."""
        self._add(source, start, length, at)

    def checksum(self, source: ByteSource, start: int, length: int) -> int:
        """None is recorded: reading everything twice would be for nothing, since torch compares none."""
        return 0

    def end(self, size: int) -> None:
        """All is there."""
        assert size == self.size

    def _add(self, content: bytes | ByteSource, start: int, length: int, at: int) -> None:
        assert at == self.size
        if length:
            self._starts.append(at)
            self._pieces.append((content, start, length))
            self.size += length

    def source(self, name: str) -> ByteSource:
        """The same bytes for our own reader."""
        return StreamSource(self, name)  # type: ignore[arg-type]

    # ------------------------------------------------------------ while it is read

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def seekable(self) -> bool:
        """It can be read anywhere."""
        return True

    def tell(self) -> int:
        """Where reading goes on."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on reading somewhere else."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer, from as many pieces as it takes; less only at the end."""
        view = memoryview(buffer).cast("B")
        done = 0
        piece = bisect_right(self._starts, self._position) - 1
        while done < len(view) and self._position < self.size:
            content, start, length = self._pieces[piece]
            inside = self._position - self._starts[piece]
            wanted = min(length - inside, len(view) - done)
            if isinstance(content, bytes):
                view[done : done + wanted] = content[inside : inside + wanted]
                got = wanted
            else:
                got = _read_into(content, start + inside, view[done : done + wanted])
            done, self._position = done + got, self._position + got
            piece += 1 if inside + got == length else 0
        return done

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; less than was asked for only at the end."""
        left = max(self.size - self._position, 0)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        del data[self.readinto(data) :]
        return bytes(data)

    def readall(self) -> bytes:
        """All bytes that are left."""
        return self.read()


def _read_into(source: ByteSource, start: int, view: memoryview) -> int:
    """Some bytes of a source, at least one."""
    if isinstance(source, LocalSource) and hasattr(os, "preadv"):
        got = os.preadv(source.descriptor, [view], start)  # straight to where torch wants it
    else:
        data = source.read(start, min(len(view), BUFFER))
        got = len(data)
        view[:got] = data
    if not got:
        raise OSError(5, "the file has become shorter")
    return got

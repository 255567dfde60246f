"""Where bytes come from: explicit ranges, counted, so that laziness can be tested."""

from __future__ import annotations

import os
import stat
from io import FileIO
from typing import BinaryIO, Protocol

from relight.core.errors import SourceError


class ByteSource(Protocol):
    """Random access to the bytes of one thing.

    Attributes:
        name: As the user gave it.
        size: Bytes in all.
        bytes_read: Bytes handed out so far.
        requests: Ranges asked for so far.
    """

    name: str
    size: int
    bytes_read: int
    requests: int

    def read(self, start: int, length: int) -> bytes:
        """The bytes of a range; fewer where the source ends before."""
        ...

    def close(self) -> None:
        """Give the handle back."""
        ...


class MemorySource:
    """Bytes that are already there."""

    def __init__(self, data: bytes, name: str = "<bytes>") -> None:
        self.name = name
        self.size = len(data)
        self.bytes_read = 0
        self.requests = 0
        self._data = data

    def read(self, start: int, length: int) -> bytes:
        """The bytes of a range; fewer where the source ends before."""
        part = self._data[max(start, 0) : max(start, 0) + max(length, 0)]
        self.bytes_read += len(part)
        self.requests += 1
        return part

    def close(self) -> None:
        """Nothing to give back."""


class StreamSource:
    """An open file of whatever makes files: it can be sought, and is not on this disk.

    Args:
        stream: The file; it is closed with this.
        name: As the user gave it.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.bytes_read = 0
        self.requests = 0
        self._stream: BinaryIO | FileIO = stream
        self.size = stream.seek(0, os.SEEK_END)

    def read(self, start: int, length: int) -> bytes:
        """The bytes of a range; fewer where the file ends before.

        Raises:
            SourceError: They could not be delivered.
        """
        start, length = max(start, 0), max(min(length, self.size - start), 0)
        parts: list[bytes] = []
        try:
            if length:  # a start behind the end may be too large a number to seek to
                self._stream.seek(start)
            while length > 0:
                part = self._stream.read(length)
                if not part:
                    break
                parts.append(part)
                length -= len(part)
        except OSError as error:
            raise SourceError(self.name, _reason(error)) from None
        data = b"".join(parts)
        self.bytes_read += len(data)
        self.requests += 1
        return data

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class LocalSource(StreamSource):
    """A file, read by position. Never mapped: a file that shrinks must not kill the process.

    Args:
        path: Path of a regular file.

    Raises:
        SourceError: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self.bytes_read = 0
        self.requests = 0
        try:
            self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed by `close`
            self.size = os.fstat(self._stream.fileno()).st_size
        except OSError as error:
            raise SourceError(self.name, _reason(error)) from None
        except ValueError as error:  # an embedded NUL
            raise SourceError(self.name, str(error)) from None
        if not stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
            self._stream.close()
            raise SourceError(self.name, "it is not a regular file")

    if hasattr(os, "pread"):

        def read(self, start: int, length: int) -> bytes:
            """The bytes of a range; fewer where the file ends before.

            Raises:
                SourceError: They could not be delivered.
            """
            start, length = max(start, 0), max(min(length, self.size - start), 0)
            try:
                # One call of the system: thousands of small ranges are asked for.
                data = os.pread(self._stream.fileno(), length, start) if length else b""
            except OSError as error:
                raise SourceError(self.name, _reason(error)) from None
            if len(data) < length:
                return super().read(start, length)  # it delivers large ranges in parts, or has become shorter
            self.bytes_read += length
            self.requests += 1
            return data

    @property
    def descriptor(self) -> int:
        """The open file, for copies that the kernel makes."""
        return self._stream.fileno()


class SliceSource:
    """A part of a source, as a source."""

    def __init__(self, source: ByteSource, start: int, length: int, name: str) -> None:
        self.name = name
        self.size = length
        self.bytes_read = 0
        self.requests = 0
        self._source = source
        self._start = start

    def read(self, start: int, length: int) -> bytes:
        """The bytes of a range; fewer where the part ends before."""
        start = max(start, 0)
        data = self._source.read(self._start + start, max(min(length, self.size - start), 0))
        self.bytes_read += len(data)
        self.requests += 1
        return data

    def close(self) -> None:
        """The source stays open."""


def open_local(path: str | os.PathLike[str]) -> LocalSource:
    """The file that a user named.

    Raises:
        SourceError: It cannot be opened; where it is not there, with what may have been meant.
    """
    try:
        return LocalSource(path)
    except SourceError as error:
        name = os.fspath(path)
        if "\0" in name or os.path.exists(name):
            raise
        from relight.reader.missing import why_missing

        raise SourceError(error.path or "''", why_missing(name)) from None


def _reason(error: OSError) -> str:
    return {
        "FileNotFoundError": "there is no such file",
        "PermissionError": "permission denied",
        "IsADirectoryError": "it is a folder",
    }.get(type(error).__name__, error.strerror or str(error))

"""Checkpoints behind a URL: a suffix range, the pickle, and nothing else is transferred.

``http://`` and ``https://`` need the standard library only. Every other scheme that fsspec knows (``s3://``, ``gs://``,
``hf://`` ...) needs the extra ``[remote]`` and the backend's own package.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Protocol

from relight.core.errors import SourceError
from relight.core.version import __version__

# A directory has 60 to 80 bytes per record: this holds that of some 2,500 records besides the end record.
TAIL = 192 << 10
# What is fetched of the front of a file that is no archive, or whose directory does not tell where its front ends.
HEAD = 128 << 10
# A front that is larger is not fetched in one piece: whoever reads it has limits, a range has none.
_LARGEST_FRONT = 64 << 20
_SMALL_RECORD = 4096
# torch writes `version` and the serialization id last: they stand between the values and the directory.
_BEFORE_DIRECTORY = 1024
_ENTRY = struct.Struct("<4s6H3I5H2I")  # a directory entry, APPNOTE 4.3.12
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path names something remote; a drive letter and ``file://`` do not."""
    match = _SCHEME.match(path)
    return match is not None and match.group(1).lower() != "file"


def open_url(url: str, *, timeout: float = 30.0) -> RangeSource:
    """A source for a URL.

    Args:
        url: ``https://...``, or any URL that fsspec has a backend for.
        timeout: Seconds to wait for an answer.

    Raises:
        SourceError: It cannot be reached, or the extra ``[remote]`` is not installed.
    """
    scheme = url.partition("://")[0].lower()
    transport: Transport = _Http(url, timeout) if scheme in ("http", "https") else _Fsspec(url)
    return RangeSource(url, transport)


class Transport(Protocol):
    """Fetches ranges of one remote thing."""

    def suffix(self, length: int) -> tuple[bytes, int]:
        """(the last bytes, size of the whole)."""
        ...

    def range(self, start: int, end: int) -> bytes:
        """The bytes of ``[start, end)``."""
        ...


class RangeSource:
    """Random access over ranges, with what was fetched kept: each byte is transferred once at most.

    Args:
        name: The URL.
        transport: What fetches.

    Attributes:
        size: Bytes in all, known from the answer to the first request.
        bytes_read: Bytes transferred.
        requests: Requests made.
    """

    remote = True

    def __init__(self, name: str, transport: Transport) -> None:
        self.name = name
        self._transport = transport
        tail, self.size = transport.suffix(TAIL)
        self.bytes_read = len(tail)
        self.requests = 1
        self._parts: list[tuple[int, bytes]] = [(self.size - len(tail), tail)]
        self._front: int | None = None

    def read(self, start: int, length: int) -> bytes:
        """The bytes of a range; fewer where the source ends before.

        Raises:
            SourceError: The connection failed.
        """
        start = max(start, 0)
        end = min(start + max(length, 0), self.size)
        if start >= end:
            return b""
        for at, part in self._parts:
            if at <= start and end <= at + len(part):
                return part[start - at : end - at]
        # What is near the front is fetched in one piece: headers and data.pkl are there.
        if start < HEAD:
            if self._front is None:
                self._front = self._end_of_front()
            fetched = self._fetch(0, max(end, self._front))
            return fetched[start:end]
        return self._fetch(start, end)

    def _fetch(self, start: int, end: int) -> bytes:
        fetched = self._transport.range(start, end)
        self.requests += 1
        self.bytes_read += len(fetched)
        self._parts.append((start, fetched))
        return fetched

    def _end_of_front(self) -> int:
        """How much of the front is wanted: of an archive, all before its first large record, which holds values.

        The directory says so. It is nearly always in what was fetched first; where it is not, it is fetched now, since
        whoever reads the front of an archive reads the directory, too.
        """
        at, tail = self._parts[0]
        start = _directory_start(tail)
        otherwise = min(HEAD, self.size)
        if start is None or not 0 <= start < self.size:
            return otherwise
        before = max(start - _BEFORE_DIRECTORY, 0)
        if before < at:
            if at - before > _LARGEST_FRONT:
                return otherwise
            at, tail = before, self._fetch(before, at) + tail
            self._parts.append((at, tail))
        end = _first_large(tail, start - at)
        return otherwise if end is None else min(end, self.size)

    def close(self) -> None:
        """Nothing is held open between requests."""


def _directory_start(tail: bytes) -> int | None:
    """Where the directory of an archive starts, by its end record; None if there is none in the last bytes."""
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(tail):
        return None
    start = int.from_bytes(tail[end + 16 : end + 20], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if wide >= 0 and tail[end - 20 : end - 16] == b"PK\x06\x07":
        start = int.from_bytes(tail[wide + 48 : wide + 56], "little")
    return start


def _first_large(tail: bytes, at: int) -> int | None:
    """Where the first record with values starts, or the directory if there is none; None if that cannot be told.

    Only the first few entries are looked at, and nothing is believed: a wrong answer costs a request more.
    """
    for _ in range(64):
        if at + _ENTRY.size > len(tail):
            return None
        signature, *fields = _ENTRY.unpack_from(tail, at)
        if signature != b"PK\x01\x02":
            return None
        stored, offset = fields[7], fields[15]
        name_length, extra_length, comment_length = fields[9:12]
        name = tail[at + _ENTRY.size : at + _ENTRY.size + name_length]
        if stored > _SMALL_RECORD and not name.endswith(b"/data.pkl"):
            return offset if offset <= _LARGEST_FRONT else None
        at += _ENTRY.size + name_length + extra_length + comment_length
    return None


class _Http:
    """Ranges over HTTP with the standard library. Redirects are followed; credentials come from the URL only."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout

    def _get(self, value: str) -> tuple[bytes, Any, int]:
        import http.client
        import urllib.error
        import urllib.request

        request = urllib.request.Request(
            self.url, headers={"Range": value, "User-Agent": f"relight/{__version__}", "Accept-Encoding": "identity"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                if answer.status != 206:
                    # The whole file would follow: it is not taken.
                    raise SourceError(self.url, "the server does not answer requests for a part of the file")
                return answer.read(), answer.headers, answer.status
        except urllib.error.HTTPError as error:
            raise SourceError(self.url, f"the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise SourceError(self.url, str(reason) or type(error).__name__) from None

    def suffix(self, length: int) -> tuple[bytes, int]:
        """The last bytes; Content-Range says how large the whole is, so no HEAD is needed."""
        data, headers, _ = self._get(f"bytes=-{length}")
        match = re.match(r"bytes \d+-\d+/(\d+)$", headers.get("Content-Range", ""))
        if match is None:
            raise SourceError(self.url, "the server does not say how large the file is")
        return data, int(match.group(1))

    def range(self, start: int, end: int) -> bytes:
        """The bytes of ``[start, end)``."""
        data, _, _ = self._get(f"bytes={start}-{end - 1}")
        return data


class _Fsspec:
    """Ranges over fsspec, always explicit: never a file object with a cache of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec
        except ImportError:
            raise SourceError(url, "that needs fsspec: pip install 'relight[remote]'") from None
        try:
            self._files, self._path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # no backend for the scheme, or one that is not installed
            raise SourceError(url, str(error)) from None

    def _cat(self, start: int | None, end: int | None) -> bytes:
        try:
            data: bytes = self._files.cat_file(self._path, start=start, end=end)
        except Exception as error:  # every backend has exceptions of its own
            raise SourceError(self.url, f"{type(error).__name__}: {error}") from None
        return data

    def suffix(self, length: int) -> tuple[bytes, int]:
        """The last bytes, and the size: two calls, since fsspec has none that gives both."""
        try:
            size = int(self._files.size(self._path))
        except Exception as error:  # as above
            raise SourceError(self.url, f"{type(error).__name__}: {error}") from None
        return self._cat(max(size - length, 0), size), size

    def range(self, start: int, end: int) -> bytes:
        """The bytes of ``[start, end)``."""
        return self._cat(start, end)

"""Checkpoints behind a URL: a suffix range, the pickle, and nothing else is transferred.

``http://`` and ``https://`` need the standard library only. Every other scheme that fsspec knows (``s3://``, ``gs://``,
``hf://`` ...) needs the extra ``[remote]`` and the backend's own package.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from relight.core.errors import SourceError
from relight.core.version import __version__

# A directory has about 60 bytes per record: this holds that of some 4,300 records besides the end record.
TAIL = 256 << 10
# data.pkl comes first in files that torch writes, with 90 to 115 bytes per tensor: this holds some 1,100 tensors.
HEAD = 128 << 10
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
        first, last = (0, max(end, min(HEAD, self.size))) if start < HEAD else (start, end)
        fetched = self._transport.range(first, last)
        self.requests += 1
        self.bytes_read += len(fetched)
        self._parts.append((first, fetched))
        return fetched[start - first : end - first]

    def close(self) -> None:
        """Nothing is held open between requests."""


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

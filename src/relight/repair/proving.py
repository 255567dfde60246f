"""What proves a conversion, while the new file has no name yet: it is read again and compared with its source."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint
from relight.core.errors import RepairError
from relight.reader.detect import read
from relight.reader.source import StreamSource
from relight.repair.copying import NewFile, settle
from relight.repair.stored import CHUNK, Stored

Check: TypeAlias = tuple[str, bool, str]  # what was asked, whether it holds, in words

NOT_EQUAL = "is not what its source says; where the source itself is damaged, relight verify tells"


@contextlib.contextmanager
def settling(new: NewFile, like: str) -> Iterator[None]:
    """Let a new file reach the disk while something else is done with it.

    Args:
        new: The file.
        like: Another, whose permissions it gets.

    Raises:
        OSError: It did not: the system says so only once, so it must not be lost.
    """
    failures: list[OSError] = []

    def work() -> None:
        try:
            settle(new, like)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="relight-fsync")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


class Comparing:
    """Compares parts of a new file with their checksums while the rest of it is written: both wait for the same disk.

    Args:
        target: Descriptor of the file.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._parts: queue.SimpleQueue[tuple[str, int, Stored] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self.equal: dict[str, int] = {}  # where the parts are that hold what they should
        self._thread = threading.Thread(target=self._work, name="relight-compare")
        self._thread.start()

    def add(self, name: str, start: int, content: Stored) -> None:
        """A part that is written, and has a checksum to be compared with: nothing but the new file is read for it."""
        self._parts.put((name, start, content))

    def close(self) -> None:
        """Wait for the last of them.

        Raises:
            OSError: The new file could not be read.
        """
        self._parts.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (part := self._parts.get()) is not None:
            name, start, content = part
            try:
                if self._failure is None and same_bytes(self._target, start, content.nbytes, content, whole=False):
                    self.equal[name] = start
            except Exception as error:
                self._failure = error


def read_again(target: int, path: str) -> Checkpoint:
    """What a new file says.

    Args:
        target: Its descriptor.
        path: The name that it will have.
    """
    source = StreamSource(os.fdopen(os.dup(target), "rb", buffering=0), path)
    try:
        return read(source)
    finally:
        source.close()


def need_proof(checks: Iterable[Check], origin: str) -> None:
    """Refuse a file that is not what it should be.

    Raises:
        RepairError: A check does not hold.
    """
    failed = next((f"{what}: {text}" for what, ok, text in checks if not ok), None)
    if failed is not None:
        raise RepairError(origin, f"nothing is written, the proof fails: {failed}")


def same_bytes(descriptor: int, start: int, length: int, content: Stored, *, whole: bool) -> bool:
    """Whether a range of a new file holds certain bytes.

    Where the source records a checksum, the new bytes are compared with that: it also tells whether the source's own
    bytes are what they were.
    """
    if content.nbytes != length:
        return False
    if content.crc is not None:
        crc, at, end = 0, start, start + length
        while at < end:
            data = os.pread(descriptor, min(CHUNK, end - at), at)
            if not data:
                return False
            crc, at = zlib.crc32(data, crc), at + len(data)
        if crc != content.crc:
            return False
        if not whole:
            return True
    for data in content.chunks():
        if os.pread(descriptor, len(data), start) != data:
            return False
        start, length = start + len(data), length - len(data)
    return length == 0

"""What proves a conversion, while the new file has no name yet: it is read again and compared with its source."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint
from relight.core.errors import RepairError
from relight.reader import checksum
from relight.reader.detect import read
from relight.reader.source import StreamSource
from relight.repair.copying import NewFile, Progress, settle
from relight.repair.stored import FileRange, Files, Inflated, Stored

_READ = 1 << 20
_COMPARING = 2  # threads

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

    A checksum takes twice as long as a copy by the kernel: so where there is a second processor, two threads share them.

    Args:
        target: Descriptor of the file.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._parts: queue.SimpleQueue[tuple[str, int, Stored] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self.equal: dict[str, int] = {}  # where the parts are that hold what they should
        count = min(os.cpu_count() or 1, _COMPARING)
        self._threads = [threading.Thread(target=self._work, name=f"relight-compare-{i}") for i in range(count)]
        for thread in self._threads:
            thread.start()

    def add(self, name: str, start: int, content: Stored) -> None:
        """A part that is written, and has a checksum to be compared with: nothing but the new file is read for it."""
        self._parts.put((name, start, content))

    def close(self) -> None:
        """Wait for the last of them.

        Raises:
            OSError: The new file could not be read.
        """
        for _ in self._threads:
            self._parts.put(None)
        for thread in self._threads:
            thread.join()
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


def checksum_of(descriptor: int, start: int, length: int, progress: Progress | None = None) -> int | None:
    """The checksum of a range of a file; None where the file ends before.

    Args:
        descriptor: The file.
        start: First byte.
        length: How many.
        progress: Called with the number of bytes read since the last call.

    Raises:
        OSError: The disk does not deliver it.
    """
    crc32 = checksum.fastest()
    crc, at, end = 0, start, start + length
    # One buffer for all: memory that is new for each part costs as much as reading does.
    buffer = memoryview(bytearray(min(_READ, length)))
    while at < end:
        wanted = buffer[: end - at]
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [wanted], at)
        else:
            data = os.pread(descriptor, len(wanted), at)
            count = len(data)
            wanted[:count] = data
        if not count:
            return None
        if progress is not None:
            progress(count)
        crc, at = crc32(wanted[:count], crc), at + count
    return crc


def changed(content: FileRange | Inflated) -> bool:
    """Whether bytes of a source are not what the source itself records of them."""
    if isinstance(content, FileRange):
        return checksum_of(content.files.descriptor(content.path), content.start, content.nbytes) != content.crc
    crc, crc32 = 0, checksum.fastest()
    for data in content.chunks():
        crc = crc32(data, crc)
    return crc != content.crc


def need_intact(files: Files, storages: Iterable[Stored], origin: str) -> None:
    """Refuse sources whose bytes have changed, where only pieces of them are used.

    A storage that is taken whole is compared with its checksum once it is written. A piece of one has none: what is made
    of pieces is compared with the source itself, and would carry its damage over.

    Raises:
        RepairError: A checksum is wrong.
    """
    whole = {(s.path, s.start) for s in storages if isinstance(s, (FileRange, Inflated)) and s.crc is not None}
    for place, content in files.recorded.items():
        if place not in whole and changed(content):
            raise RepairError(origin, f"nothing is written, it is damaged: {damage(content)}")


def damage(content: FileRange | Inflated) -> str:
    """What is wrong with a range, in words."""
    name = os.path.basename(content.path)
    return f"{name}: the checksum of {content.nbytes:,} bytes at {content.start:,} is wrong: bytes have changed"


def same_bytes(descriptor: int, start: int, length: int, content: Stored, *, whole: bool) -> bool:
    """Whether a range of a new file holds certain bytes.

    Where the source records a checksum, the new bytes are compared with that: it also tells whether the source's own
    bytes are what they were.
    """
    if content.nbytes != length:
        return False
    if content.crc is not None:
        if checksum_of(descriptor, start, length) != content.crc:
            return False
        if not whole:
            return True
    for data in content.chunks():
        if os.pread(descriptor, len(data), start) != data:
            return False
        start, length = start + len(data), length - len(data)
    return length == 0

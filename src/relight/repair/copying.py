"""Bytes from one file to another by the kernel where it can, and new files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator

from relight.core.errors import RepairError

BUFFER = 4 << 20
_ONCE = 1 << 30  # bytes asked of the kernel at once, so that progress can be shown
# What the kernel says where it cannot copy between these two files: then the next way is tried.
_NOT_THIS_WAY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY, errno.EPERM, errno.EIO}
)

Progress = Callable[[int], None]


def copy_range(source: int, start: int, length: int, target: int, at: int, progress: Progress | None = None) -> None:
    """Copy a range of a file into another; holes stay holes where the file system can tell them.

    Args:
        source: Descriptor of the file that is read.
        start: First byte.
        length: How many.
        target: Descriptor of the file that is written.
        at: Where they go.
        progress: Called with the number of bytes copied since the last call.

    Raises:
        OSError: The disk is full, or does not deliver the bytes.
    """
    for begin, size, data in _extents(source, start, length):
        if data:
            _copy(source, begin, size, target, at + begin - start, progress)
        elif progress is not None:
            progress(size)


def _extents(source: int, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
    """Parts of a range: where, how long, and whether anything is stored there."""
    if not hasattr(os, "SEEK_DATA"):
        yield start, length, True
        return
    position, end = start, start + length
    while position < end:
        try:
            data = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                size = os.fstat(source).st_size
                if size < end:
                    raise OSError(errno.EIO, "the file has become shorter") from None
                yield position, end - position, False
            else:
                yield position, end - position, True
            return
        if data > position:
            yield position, min(data, end) - position, False
        position = min(data, end)
        if position < end:
            hole = min(os.lseek(source, position, os.SEEK_HOLE), end)
            yield position, hole - position, True
            position = hole


def _copy(source: int, start: int, length: int, target: int, at: int, progress: Progress | None) -> None:
    way = 0
    ways = [w for w in (_by_range, _by_sendfile, _by_hand) if w is not None]
    while length:
        try:
            done = ways[way](source, start, min(length, _ONCE), target, at)
        except (OSError, AttributeError) as error:
            if way + 1 < len(ways) and (isinstance(error, AttributeError) or error.errno in _NOT_THIS_WAY):
                way += 1
                continue
            raise
        if done == 0:
            if way + 1 < len(ways):  # some file systems answer so in place of an error
                way += 1
                continue
            raise OSError(errno.EIO, "the file has become shorter")
        start, at, length = start + done, at + done, length - done
        if progress is not None:
            progress(done)


def _by_range(source: int, start: int, length: int, target: int, at: int) -> int:
    # Shares the blocks where the file system can (XFS, btrfs), else copies within the kernel.
    return os.copy_file_range(source, target, length, start, at)


def _by_sendfile(source: int, start: int, length: int, target: int, at: int) -> int:
    os.lseek(target, at, os.SEEK_SET)
    return os.sendfile(target, source, start, length)


def _by_hand(source: int, start: int, length: int, target: int, at: int) -> int:
    data = os.pread(source, min(length, BUFFER), start)
    write_all(target, data, at)
    return len(data)


def write_all(target: int, data: bytes | bytearray | memoryview, at: int) -> None:
    """Write bytes at a position, all of them."""
    view = memoryview(data)
    while view:
        done = os.pwrite(target, view, at)
        view, at = view[done:], at + done


@contextlib.contextmanager
def new_file(path: str, like: str) -> Iterator[int]:
    """A descriptor to write a new file by, which gets its name only once all of it is on the disk.

    Until then it is a sibling with another name: whatever ends the program, the name never leads to half a file.

    Args:
        path: The name that the file gets. Nothing may be there.
        like: A file whose permissions it gets.

    Raises:
        RepairError: It cannot be written; what was there is as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    refuse_existing(path, like)
    descriptor, temporary = -1, ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".relight", dir=folder)
        yield descriptor
        os.fchmod(descriptor, stat.S_IMODE(os.stat(like).st_mode))
        os.fsync(descriptor)
        os.close(descriptor)
        descriptor = -1
        refuse_existing(path, like)
        os.replace(temporary, path)
        temporary = ""
        _sync_folder(folder)
    except OSError as error:
        raise RepairError(like, f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def refuse_existing(path: str, like: str) -> None:
    """Nothing that is there is ever written over.

    Raises:
        RepairError: Something has that name.
    """
    if os.path.lexists(path):
        raise RepairError(like, f"{path} is there already, and is not written over")


def _sync_folder(folder: str) -> None:
    """Let the name survive a power cut as well; some systems cannot open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)

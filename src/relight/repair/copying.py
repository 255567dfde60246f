"""Bytes from one file to another by the kernel where it can, and new files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.core.errors import RepairError

if TYPE_CHECKING:
    import threading

BUFFER = 4 << 20
BLOCK = 4096  # of the file systems that share blocks between files (XFS, btrfs), by default
_SHARED = 1 << 20  # a range that is worth two calls
_SUFFIX = ".relight"
_ONCE = 32 << 20  # bytes asked of the kernel at once, so that progress can be shown
_BEHIND = 128 << 20  # bytes after which the disk begins; each sync costs the file system a commit of its journal
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
            place = at + begin - start
            # Whole blocks are shared where the file system can: up to the first, bytes are copied.
            before = -begin % BLOCK if (begin - place) % BLOCK == 0 and size >= _SHARED else 0
            if before:
                _copy(source, begin, before, target, place, progress)
            _copy(source, begin + before, size - before, target, place + before, progress)
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


class WriteBehind:
    """Lets the disk begin while the copy goes on: a sync at the end would wait for all of it at once.

    Of a file of 1 GB that is a third of the time.

    Args:
        descriptor: Of the file that is written; it has to stay open until `stop`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        import threading

        self._waiting = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._error: OSError | None = None

    def wrote(self, count: int) -> None:
        """So many bytes more have been written."""
        self._waiting += count
        if self._waiting >= _BEHIND:
            self._waiting = 0
            if self._thread is None:
                import threading

                self._thread = threading.Thread(target=self._run, name="relight-write-behind", daemon=True)
                self._thread.start()
            self._wake.set()

    def stop(self) -> None:
        """Wait until the disk is left alone.

        Raises:
            OSError: It did not take something; the system says so only once.
        """
        if self._thread is not None:
            self._stopped = True
            self._wake.set()
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        sync = getattr(os, "fdatasync", os.fsync)
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopped:
                return
            try:
                sync(self._descriptor)
            except OSError as error:
                self._error = error
                return


def write_all(target: int, data: bytes | bytearray | memoryview, at: int) -> None:
    """Write bytes at a position, all of them."""
    view = memoryview(data)
    while view:
        done = os.pwrite(target, view, at)
        view, at = view[done:], at + done


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is being written, under a name of its own.

    Attributes:
        path: That name.
        descriptor: To write it by.
    """

    path: str
    descriptor: int


@contextlib.contextmanager
def new_file(path: str, like: str, announce: Callable[[str], None] | None = None) -> Iterator[NewFile]:
    """A new file, which gets its name only once all of it is on the disk and whoever writes it is content.

    Until then it is a hidden sibling, ``.NAME.*.relight``: whatever ends the program, the name never leads to half a
    file, nor to one that was not proved. What a killed program has left so is removed by the next that writes this name;
    one that still runs holds a lock on its own.

    Args:
        path: The name that the file gets. Nothing may be there.
        like: The file that it is made from.
        announce: Called with one line where something was left.

    Raises:
        RepairError: It cannot be written; what was there is as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    import tempfile

    refuse_existing(path, like)
    descriptor, temporary = -1, ""
    try:
        with written_to(path, like):
            for left in _left_behind(folder, name):
                if announce is not None:
                    announce(f"{left} is removed: a run that was interrupted has left it")
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=_SUFFIX, dir=folder)
            _lock(descriptor)
        yield NewFile(temporary, descriptor)
        with written_to(path, like):
            refuse_existing(path, like)
            os.replace(temporary, path)
            temporary = ""
            _sync_folder(folder)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def written_to(path: str, like: str) -> Iterator[None]:
    """What the system says while a file is written, as a sentence.

    Raises:
        RepairError: The disk is full, or something else is in the way.
    """
    try:
        yield
    except OSError as error:
        raise RepairError(like, f"{path} cannot be written: {error.strerror or error}") from None


def settle(new: NewFile, like: str) -> None:
    """Give a new file the permissions of another, and wait until the disk has it.

    Raises:
        OSError: The disk does not take it.
    """
    os.fchmod(new.descriptor, stat.S_IMODE(os.stat(like).st_mode))
    os.fsync(new.descriptor)


def _left_behind(folder: str, name: str) -> Iterator[str]:
    """Remove what interrupted runs have left of a file; the names that were removed."""
    for entry in sorted(os.listdir(folder)):
        if not (entry.startswith(f".{name}.") and entry.endswith(_SUFFIX)):
            continue
        path = os.path.join(folder, entry)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if _lock(descriptor):  # else its writer is at work
                os.unlink(path)
                yield entry
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether a file is this program's now; a lock ends with the program, however that ends."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


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

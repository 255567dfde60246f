"""``relight fix --in-place``: a new data.pkl and a new directory behind the old end of the file, whose bytes all stay.

The order of writing makes every interruption harmless: a journal says how large the file was before anything is
appended; the end record, without which no reader finds the new version, comes last; the journal goes once the new version
is proved. Whoever starts next and finds one cuts the file back. Because the old bytes stay, `undo` is a cut as
well; and because they stay, nothing that must not stay in a file is ever repaired in this way.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from relight.core.checkpoint import Checkpoint, Layout
from relight.core.edits import MakePlain, Plan, Written
from relight.core.errors import RepairError
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import DEFAULT_LIMITS, open_checkpoint
from relight.reader.archive import APPENDED, Archive
from relight.reader.source import LocalSource
from relight.reader.torch_file import read_zip
from relight.repair.copying import write_all
from relight.repair.rewriter import Drafted, digest_of_records, drafted, opened

Prove: TypeAlias = Callable[[Written, "list[tuple[str, bool, str]]"], None]
SCHEMA = "relight/journal/1"
_ALIGNMENT = 64
_TAIL = 64 << 10
_ID = ".data/serialization_id"
_NARROW = 0xFFFFFFFF


def journal_of(path: str) -> str:
    """Where the journal of a file is while it is written."""
    return f"{path}.relight-journal"


def rewrite_in_place(
    plan: Plan, path: str, checkpoint: Checkpoint | None = None, prove: Prove | None = None
) -> Written:
    """Repair a file by appending to it, read it again and compare it with what it was.

    Args:
        plan: What changes.
        path: The file.
        checkpoint: What was read of it, where that was done already.
        prove: Called when all is on the disk, with what was done and what the comparison found. Where it raises, the file
            becomes what it was.

    Returns:
        What was done.

    Raises:
        SourceError: It cannot be opened.
        RepairError: It could hurt, the plan does not fit, the disk is full, or the file is not what it should be when it
            is read again; the file is what it was.
    """
    heal(path)
    # Millions of objects that live to the end: the collector would walk them over and over.
    collecting = gc.isenabled()
    gc.disable()
    try:
        checkpoint = open_checkpoint(path) if checkpoint is None else checkpoint
        refuse(plan, path, checkpoint)
        with _locked(path) as target:
            source = LocalSource(path)
            try:
                with opened(plan, source, checkpoint) as (_, archive):
                    draft = drafted(plan, source, checkpoint, archive)
                    if draft.made or archive is None:
                        raise RepairError(path, "not in place: tensors are put together. -o writes a new file")
                    addition = _addition(archive, draft.pickle, draft.kept)
            finally:
                source.close()
            _append(target, path, addition)
            # The journal stays until all is proved: what is interrupted before that is taken back by the next start.
            try:
                after, digest = _read_again(path, draft)
                written = replace(draft.written, path=path, digest=digest, rewritten=addition.records)
                checks = compared(after, written, checkpoint, addition.start)
                failed = next((f"{what}: {text}" for what, holds, text in checks if not holds), None)
                if failed is not None:
                    raise RepairError(path, f"it is what it was, the proof fails: {failed}")
                if prove is not None:
                    prove(written, checks)
                _drop_journal(path)
            except BaseException:
                _cut(target, path, addition.start)
                with contextlib.suppress(FileNotFoundError):
                    _drop_journal(path)
                raise
    finally:
        if collecting:
            gc.enable()
    return written


def refuse(plan: Plan, path: str, checkpoint: Checkpoint) -> None:
    """Refuse where it could hurt.

    Raises:
        RepairError: It is not done in place.
    """
    reason = ""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        reason = f"it is a link to {os.path.realpath(path)}, which others may use, as a cache does"
    elif not stat.S_ISREG(status.st_mode):
        reason = "it is no regular file"
    elif status.st_nlink > 1:
        reason = f"it has {status.st_nlink} names (hard links), and would change under all of them"
    elif not status.st_mode & stat.S_IWUSR or not os.access(path, os.W_OK):
        reason = "it is read-only"
    elif checkpoint.layout is not Layout.TORCH_ZIP:
        reason = f"its layout is {checkpoint.layout.value}, which cannot be appended to"
    elif any(isinstance(e, MakePlain) for e in plan.edits) or safety(checkpoint) is Safety.DANGEROUS:
        reason = "what is to go would stay in the file: a repair for safety's sake is a new file"
    elif checkpoint.problems:
        reason = f"something is wrong with it: {checkpoint.problems[0].message}"
    if reason:
        raise RepairError(path, f"not in place: {reason}. -o writes a new file")


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    """The file, for nobody else who asks."""
    try:
        target = os.open(path, os.O_RDWR)
    except OSError as error:
        raise RepairError(path, f"it cannot be written: {error.strerror or error}") from None
    try:
        with contextlib.suppress(ImportError):  # Windows has no such locks
            import fcntl

            try:
                fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RepairError(path, "another process is writing it") from None
            except OSError:
                pass  # a file system without locks
        yield target
    finally:
        os.close(target)


# ---------------------------------------------------------------- what is appended


@dataclass(frozen=True, slots=True)
class _Addition:
    """What goes behind the old end.

    Attributes:
        start: The old size.
        body: Records and directory.
        end: What makes them count.
        records: How many records are new.
    """

    start: int
    body: bytes
    end: bytes
    records: int


def _addition(archive: Archive, pickle: bytes, kept: frozenset[str]) -> _Addition:
    """Put together what is appended.

    Args:
        archive: The file.
        pickle: The new one.
        kept: Records that the new version has, by name in the archive's folder.
    """
    directory = archive.directory
    assert directory is not None
    start = archive.source.size
    new = [("data.pkl", pickle)]
    if _ID in kept:
        # It names a content: another content has another, of as many digits as torch's.
        number = str(int(hashlib.sha256(pickle + str(start).encode()).hexdigest(), 16))[:40].zfill(40)
        new.append((_ID, number.encode()))
    replaced = {name for name, _ in new}
    body = bytearray()
    lines = bytearray()
    count = 0
    root = f"{archive.root}/" if archive.root else ""
    for name, data in new:
        lines += _record(body, start, f"{root}{name}".encode(), data, marked=name == "data.pkl")
        count += 1
    raw, at = directory.raw, 0
    for entry in directory.entries:
        names, extras, comments = struct.unpack_from("<3H", raw, at + 28)
        length = 46 + names + extras + comments
        short = entry.name.removeprefix(root)
        if short in kept and short not in replaced:
            lines += raw[at : at + length]
            count += 1
        at += length
    begin = start + len(body)
    body += lines
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, len(lines), begin)
    end += struct.pack("<4sIQI", b"PK\x06\x07", 0, begin + len(lines), 1)
    few = min(count, 0xFFFF)
    end += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, few, few, min(len(lines), _NARROW), min(begin, _NARROW), 0)
    return _Addition(start, bytes(body), end, len(new))


def _record(body: bytearray, start: int, name: bytes, data: bytes, *, marked: bool) -> bytes:
    """Add a record as torch writes them, its bytes at a multiple of 64; its line of the directory."""
    offset = start + len(body)
    wide = struct.pack("<2HQ", 1, 8, offset) if offset >= _NARROW else b""
    own = APPENDED + struct.pack("<Q", start) if marked else b""
    padding = -(offset + 30 + len(name) + len(wide) + len(own) + 4) % _ALIGNMENT
    extra = wide + own + b"FB" + struct.pack("<H", padding) + b"Z" * padding
    crc = zlib.crc32(data)
    body += struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0x0808, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra
    body += data + struct.pack("<4sI2Q" if wide else "<4s3I", b"PK\x07\x08", crc, len(data), len(data))
    line = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0x0808, 0, 0, 0, crc, len(data), len(data),
        len(name), len(wide), 0, 0, 0, 0, min(offset, _NARROW),
    )  # fmt: skip
    return line + name + wide


def _append(target: int, path: str, addition: _Addition) -> None:
    start, body, end = addition.start, addition.body, addition.end
    try:
        if os.fstat(target).st_size != start:
            raise RepairError(path, "it has changed while it was read")
        _write_journal(target, path, addition)
        try:
            write_all(target, body, start)
            os.fsync(target)
            write_all(target, end, start + len(body))
            os.fsync(target)
        except BaseException:
            os.ftruncate(target, start)
            os.fsync(target)
            _drop_journal(path)
            raise
    except OSError as error:
        raise RepairError(path, f"it cannot be written: {error.strerror or error}") from None


# ---------------------------------------------------------------- the journal


def _write_journal(target: int, path: str, addition: _Addition) -> None:
    record = {"schema": SCHEMA, "size": addition.start, "tail": _tail(target, addition.start)}
    descriptor = os.open(journal_of(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, json.dumps(record).encode() + b"\n", 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_folder(path)


def _drop_journal(path: str) -> None:
    os.unlink(journal_of(path))
    _sync_folder(path)


def _tail(target: int, size: int) -> str:
    """SHA-256 of the last bytes of the first ``size``."""
    length = min(size, _TAIL)
    return hashlib.sha256(os.pread(target, length, size - length)).hexdigest()


def _sync_folder(path: str) -> None:
    with contextlib.suppress(OSError):  # some systems cannot open folders
        descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def heal(path: str) -> str:
    """Take back what an interrupted run left: the file is then what it was before.

    A journal is there until a repair is proved, so also where all of it was written.

    Args:
        path: A file that may have a journal.

    Returns:
        What was done, in words; empty where there was nothing to do.

    Raises:
        RepairError: There is a journal, and the file is not the one that it was written for; neither is touched.
    """
    journal = journal_of(path)
    if not os.path.lexists(journal) or not os.path.isfile(path):
        return ""
    with _locked(path) as target:
        record = _read_journal(journal)
        if record is None:
            # It is written and on the disk before the file is touched: half of it means that the file was not.
            os.unlink(journal)
            return "an interrupted repair had not begun to write"
        size = record["size"]
        if os.fstat(target).st_size < size or _tail(target, size) != record["tail"]:
            raise RepairError(
                path, f"{os.path.basename(journal)} was written for another state of it; remove one of the two"
            )
        os.ftruncate(target, size)
        os.fsync(target)
        _drop_journal(path)
        return "an interrupted repair was taken back"


def _read_journal(journal: str) -> dict[str, Any] | None:
    try:
        with open(journal, encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    good = isinstance(record, dict) and record.get("schema") == SCHEMA
    good = good and type(record.get("size")) is int and record["size"] >= 0 and isinstance(record.get("tail"), str)
    return record if good else None


# ---------------------------------------------------------------- back


def undo(path: str) -> int:
    """Take back the last repair in place: the file is then, byte for byte, what it was.

    Args:
        path: The file.

    Returns:
        Its size.

    Raises:
        SourceError: It cannot be opened.
        RepairError: It was not repaired in place, or has changed since.
    """
    heal(path)
    source = LocalSource(path)
    try:
        archive = Archive(source, DEFAULT_LIMITS)
        size = archive.before
    finally:
        source.close()
    if not size:
        raise RepairError(path, "it was not repaired in place: there is nothing to take back")
    if os.path.islink(path) or os.stat(path).st_nlink > 1:
        raise RepairError(path, "it is a link now, or has several names")
    with _locked(path) as target:
        _cut(target, path, size)
    return size


def _cut(target: int, path: str, size: int) -> None:
    try:
        os.ftruncate(target, size)
        os.fsync(target)
    except OSError as error:
        raise RepairError(path, f"it cannot be written: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class _After:
    """What a repaired file says.

    Attributes:
        checkpoint: What was read of it.
        pickle: SHA-256 of its data.pkl.
        before: The size to which it can be cut back, as its own mark says.
    """

    checkpoint: Checkpoint
    pickle: str
    before: int


def _read_again(path: str, draft: Drafted) -> tuple[_After, str]:
    """What a repaired file says, from the disk; its digest.

    The pickle was decoded when it was made, and that was compared with what was planned: where the bytes are those, byte
    for byte, they are not decoded a second time.
    """
    source = LocalSource(path)
    try:
        archive = Archive(source, DEFAULT_LIMITS)
        if not archive.usable:
            raise RepairError(path, f"it is what it was, the proof fails: {archive.problems[0].message}")
        found = read_zip(source, archive, DEFAULT_LIMITS, known=(draft.pickle, draft.decoded))
        data = archive.read(archive.find("data.pkl") or "data.pkl", DEFAULT_LIMITS.pickle_bytes) or b""
        digest = digest_of_records(source.size, archive.records.values(), data)
        return _After(found, hashlib.sha256(data).hexdigest(), archive.before), digest
    finally:
        source.close()


def compared(again: _After, written: Written, before: Checkpoint, size: int) -> list[tuple[str, bool, str]]:
    """Compare a repaired file with what it was: the pickle is the planned one, and every storage lies where it lay.

    Args:
        again: What the file says.
        written: What was done.
        before: What was read of it before.
        size: The size that it had.
    """
    after = again.checkpoint
    out = [
        ("read again", not after.problems, after.problems[0].message if after.problems else "nothing is wrong with it")
    ]
    same = written.pickle == again.pickle
    cut = again.before == size
    out.append(("the pickle", same, "it is the one that was planned" if same else "it is not what was written"))
    moved = [
        k for k, s in after.storages.items() if before.storages.get(k) is None or before.storages[k].span != s.span
    ]
    text = (
        f"storage {moved[0]} is not where it was" if moved else f"{len(after.storages):,} storages lie where they lay"
    )
    out.append(("untouched tensors", not moved, text))
    out.append(
        ("undo", cut, "--undo cuts it back to what it was" if cut else "it could not be cut back to what it was")
    )
    return out

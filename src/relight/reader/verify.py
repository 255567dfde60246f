"""Reading every byte once: checksums and bounds, and on request NaN, Inf and digests."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, Record, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import UsageError
from relight.reader import checksum, torch_tar, values
from relight.reader.detect import open_checkpoint
from relight.reader.limits import DEFAULT_LIMITS, Limits
from relight.reader.remote import is_url
from relight.reader.source import ByteSource, open_local

_SHARDS = ".distcp"  # many archives, one behind the other: no file by itself
_KNOWN_FOLDERS = ("dcp", "deepspeed", "sharded-index")
_NOT_BY_THEMSELVES = (_SHARDS, ".metadata", ".json", ".txt", ".md", ".py", ".yaml", ".yml", "latest")


@dataclass(frozen=True, slots=True)
class TensorValues:
    """Values of one tensor that are no numbers.

    Attributes:
        key: Its name in the state_dict.
        nan: How many are NaN.
        inf: How many are infinite.
        numel: Of how many.
        first: Element index of the first of them, in the order of the storage.
    """

    key: str
    nan: int
    inf: int
    numel: int
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What reading everything showed.

    Attributes:
        origin: The file, as given.
        nbytes: Its size.
        records: Records, or storages of a file without records, that were read.
        checksums: How many of them have a checksum that was compared.
        problems: What is wrong with the bytes, the reader's own problems included.
        non_finite: Tensors with NaN or Inf, None where they were not looked for.
        digests: sha256 by record name, None where they were not asked for; the whole file under its own name.
        seconds: How long it took.
        read: Bytes read in that time.
    """

    origin: str
    nbytes: int
    records: int
    checksums: int
    problems: tuple[Problem, ...] = ()
    non_finite: tuple[TensorValues, ...] | None = None
    digests: dict[str, str] | None = None
    seconds: float = 0.0
    read: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and nothing that was looked for was found."""
        return not any(map(damages, self.problems)) and not self.foreign and not self.non_finite

    @property
    def foreign(self) -> bool:
        """Whether the thing is no checkpoint at all, but a whole file of something else, or any folder."""
        kinds = (ProblemKind.NOT_A_CHECKPOINT, ProblemKind.UNSUPPORTED)
        return not self.records and any(p.kind in kinds and p.what not in _KNOWN_FOLDERS for p in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/verify/1``."""
        return {
            "schema": "relight/verify/1",
            "path": self.origin,
            "ok": self.ok,
            "bytes": self.nbytes,
            "records": self.records,
            "checksums": self.checksums,
            "seconds": round(self.seconds, 3),
            "read": self.read,
            "problems": [
                {
                    "kind": p.kind.value,
                    "message": p.message,
                    "fatal": p.fatal,
                    "record": p.record,
                    "position": p.position,
                }
                for p in self.problems
            ],
            "non_finite": None
            if self.non_finite is None
            else [
                {"key": t.key, "nan": t.nan, "inf": t.inf, "numel": t.numel, "first": t.first} for t in self.non_finite
            ],
            "digests": self.digests,
        }


@dataclass(slots=True)
class _Work:
    """State of one run."""

    source: ByteSource
    finite: bool
    digest: bool
    little: bool
    progress: Callable[[int], None]
    problems: list[Problem] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    checksums: int = 0
    records: int = 0


def verify(
    path: str | os.PathLike[str],
    *,
    finite: bool = False,
    digest: bool = False,
    progress: Callable[[int], None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Verification:
    """Read every record once.

    Args:
        path: A file, or a folder: then its files one by one.
        finite: Look for NaN and Inf in every tensor of a floating type.
        digest: Compute sha256 of every record and of the whole file.
        progress: Called with the number of bytes read since the last call.
        limits: What reading may cost.

    Returns:
        What it showed. torch.load compares no checksum: it returns changed values without an error.

    Raises:
        SourceError: The file cannot be opened or read.
        UsageError: The path is a URL.
    """
    if is_url(os.fspath(path)):
        raise UsageError("verify reads every byte, and does not fetch them", "Download the file first.")
    began = time.perf_counter()
    checkpoint = open_checkpoint(path, limits=limits)
    if os.path.isdir(path):
        parts = [
            (name, verify(os.path.join(path, name), finite=finite, digest=digest, progress=progress, limits=limits))
            for name in checkpoint.files
            if not name.endswith(_NOT_BY_THEMSELVES)
        ]
        return _folder(checkpoint, parts, seconds=time.perf_counter() - began)
    source = open_local(path)
    try:
        work = _Work(
            source=source,
            finite=finite,
            digest=digest,
            little=checkpoint.little_endian,
            progress=progress or (lambda count: None),
            problems=list(checkpoint.problems),
        )
        by_storage = _by_storage(checkpoint)
        bad = [v for part in _parts(checkpoint) for v in _read(work, part, by_storage)]
        if digest:
            work.digests[os.path.basename(os.fspath(path))] = _whole(source)
    finally:
        source.close()
    # The reader compares the checksum of data.pkl by itself; do not say it twice.
    unique = {(p.kind, p.record, p.message): p for p in work.problems}
    return Verification(
        origin=os.fspath(path),
        nbytes=source.size,
        records=work.records,
        checksums=work.checksums,
        problems=tuple(unique.values()),
        non_finite=tuple(bad) if finite else None,
        digests=work.digests if digest else None,
        seconds=time.perf_counter() - began,
        read=source.bytes_read,
    )


def damages(problem: Problem) -> bool:
    """Whether a problem means that bytes are wrong; that a thing is a folder, or a web page, is something else."""
    other = (ProblemKind.NOT_A_CHECKPOINT, ProblemKind.UNSUPPORTED)
    return (problem.fatal and problem.kind not in other) or problem.kind is ProblemKind.CRC_MISMATCH


def _folder(checkpoint: Checkpoint, parts: list[tuple[str, Verification]], *, seconds: float) -> Verification:
    """What verifying the files of a folder one by one showed, as one answer."""
    # A file that the loaders of single files cannot read is no damage here: what the folder needs, its own reader judged.
    own = [(n, v) for n, v in parts if v.records]
    problems = list(checkpoint.problems)
    for name, verified in own:
        for p in verified.problems:
            if p.kind is ProblemKind.CRC_MISMATCH or (damages(p) and not any(q.record == name for q in problems)):
                message = f"{p.record}: {p.message}" if p.record else p.message
                found = replace(p, message=message, record=name)
                problems += [found] if found not in problems else []  # small records are compared while reading
    left = [n for n in checkpoint.files if n.endswith(_SHARDS)]
    if left:
        message = "its items are compared with the metadata, and their values are not read"
        problems += [Problem(kind=ProblemKind.UNSUPPORTED, message=message, record=name) for name in left]
    bad = [t for _, v in own for t in v.non_finite or ()]
    digests = {f"{n}: {record}": d for n, v in own for record, d in (v.digests or {}).items()}
    return Verification(
        origin=checkpoint.origin,
        nbytes=checkpoint.nbytes,
        records=sum(v.records for _, v in own),
        checksums=sum(v.checksums for _, v in own),
        problems=tuple(problems),
        non_finite=tuple(bad) if any(v.non_finite is not None for _, v in parts) else None,
        digests=digests if any(v.digests is not None for _, v in parts) else None,
        seconds=seconds,
        read=sum(v.read for _, v in own),
    )


def _by_storage(checkpoint: Checkpoint) -> dict[str, list[TensorEntry]]:
    out: dict[str, list[TensorEntry]] = {}
    for tensor in checkpoint.tensors:
        if tensor.storage_id is not None:
            out.setdefault(tensor.storage_id, []).append(tensor)
    return out


def _parts(checkpoint: Checkpoint) -> Iterator[tuple[Record, str | None]]:
    """What to read, in the order of the bytes: (record, id of the storage that it holds)."""
    if checkpoint.records and checkpoint.layout is not Layout.TORCH_TAR:
        for record in sorted(checkpoint.records, key=lambda r: r.span.start):
            storage = record.name.removeprefix("data/") if record.name.startswith("data/") else None
            yield record, storage if storage in checkpoint.storages else None
        return
    # The old tar keeps all storages in one member: they are read one by one, and the other members as they are.
    yield from ((record, None) for record in checkpoint.records if record.name in torch_tar.PICKLES)
    stored = [s for s in checkpoint.storages.values() if s.span is not None]
    for entry in sorted(stored, key=lambda s: s.span.start if s.span else 0):
        assert entry.span is not None
        yield Record(entry.id, entry.span, entry.span.length), entry.id


def _read(
    work: _Work, part: tuple[Record, str | None], by_storage: dict[str, list[TensorEntry]]
) -> Iterator[TensorValues]:
    record, storage = part
    tensors = by_storage.get(storage or "", [])
    dtype = tensors[0].dtype if tensors else None
    look = work.finite and dtype is not None and values.can_be_non_finite(dtype)
    item = BY_NAME[dtype].itemsize if dtype in BY_NAME else 1
    crc = 0
    hasher = _sha256() if work.digest else None
    nan = inf = 0
    first = -1
    position = 0
    left = record.span.length
    inflate = zlib.decompressobj(-15) if record.compressed else None
    crc32 = checksum.fastest()
    # Deflate makes up to a thousand bytes of one: small pieces keep what a bomb can ask for at once within bounds.
    step = values.CHUNK if inflate is None else 64 << 10
    rest = b""
    while left > 0:
        chunk = work.source.read(record.span.start + record.span.length - left, min(step, left))
        if not chunk:
            work.problems.append(
                Problem(
                    kind=ProblemKind.RECORD_SHORT, message=f"{left:,} bytes are missing", fatal=True, record=record.name
                )
            )
            break
        left -= len(chunk)
        work.progress(len(chunk))
        if inflate is not None:
            try:
                chunk = inflate.decompress(chunk)
            except zlib.error as error:
                work.problems.append(
                    Problem(
                        kind=ProblemKind.ARCHIVE_MALFORMED,
                        message=f"the record cannot be inflated: {error}",
                        fatal=True,
                        record=record.name,
                    )
                )
                break
        if record.crc32 is not None:
            crc = crc32(chunk, crc)
        if hasher is not None:
            hasher.update(chunk)
        if look and dtype is not None:
            run = rest + chunk if rest else chunk
            end = len(run) - len(run) % item  # inflated pieces end anywhere
            rest = run[end:]
            bad = values.non_finite(run[:end] if rest else run, dtype, little=work.little)
            if bad.first >= 0 and first < 0:
                first = (position + len(chunk) - len(run)) // item + bad.first
            nan, inf = nan + bad.nan, inf + bad.inf
        position += len(chunk)
    else:
        if record.crc32 is not None:
            work.checksums += 1
            if crc != record.crc32:
                work.problems.append(
                    Problem(
                        kind=ProblemKind.CRC_MISMATCH,
                        message="the checksum of the record is wrong: bytes have changed",
                        record=record.name,
                    )
                )
    work.records += 1
    if hasher is not None:
        work.digests[record.name] = hasher.hexdigest()
    if nan or inf:
        yield TensorValues(tensors[0].key, nan, inf, position // item, first)


def _sha256() -> Any:
    import hashlib

    return hashlib.sha256()


def _whole(source: ByteSource) -> str:
    hasher = _sha256()
    for start in range(0, source.size, values.CHUNK):
        hasher.update(source.read(start, values.CHUNK))
    digest: str = hasher.hexdigest()
    return digest

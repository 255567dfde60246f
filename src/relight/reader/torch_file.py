"""Files that torch.save writes: the zip layout since 1.6, and the stacked pickles before it.

Source: ``torch/serialization.py`` (``_save``, ``_legacy_save``, ``_legacy_load``) of torch 2.13.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, Span, StorageEntry
from relight.core.objects import ListNode, Value, mapping_get, mapping_pairs
from relight.reader.archive import Archive
from relight.reader.assemble import Storages, assemble, claims, unusable
from relight.reader.limits import Limits
from relight.reader.nested import Finder, in_a_row
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import ByteSource
from relight.reader.tensors import StorageClaim

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# Version of the container that torch 2.13 reads. Source: kMaxSupportedFileFormatVersion in caffe2/serialize/versions.h.
_NEWEST_FORMAT = 10
_SMALL = 64  # bytes of `version` and `byteorder`


# ---------------------------------------------------------------- zip


def read_zip(
    source: ByteSource,
    archive: Archive,
    limits: Limits,
    layout: Layout = Layout.TORCH_ZIP,
    known: tuple[bytes, Decoded] | None = None,
) -> Checkpoint:
    """A zip archive with a data.pkl.

    Args:
        source: The file.
        archive: The same, as an archive.
        limits: What reading may cost.
        layout: What it is called.
        known: A pickle that was decoded already, and what it says: where the data.pkl is the same, byte for byte, it is
            not decoded again.
    """
    name = archive.find("data.pkl") or "data.pkl"
    if name != "data.pkl" and name in archive.records:
        message = f"there is no data.pkl; torch takes {name!r} for it"
        archive.problem(ProblemKind.ARCHIVE_AMBIGUOUS, message, record=name)
    data = archive.read(name, limits.pickle_bytes)
    finder = Finder(limits)
    records = tuple(archive.records.values())
    finder.records(archive, (r for r in (*records, *archive.doubles) if r is not archive.records.get(name)))
    if data is None:
        return unusable(source, layout, archive.problems, records=records, pickles=finder.collect())
    archive.check_crc(archive.records[name], data)
    archive.check_small()
    decoded = known[1] if known and known[0] == data else decode(data, limits=limits, record="data.pkl")
    finder.inside(decoded, "")
    problems = list(decoded.problems)
    if decoded.stream.end is not None and decoded.stream.end < len(data):
        problems.append(
            Problem(
                kind=ProblemKind.PICKLE_MALFORMED,
                message=f"{len(data) - decoded.stream.end:,} bytes follow the end of the pickle",
                record="data.pkl",
                position=decoded.stream.end,
            )
        )
        finder.content("the bytes behind the pickle", data[decoded.stream.end :])
    if data.startswith(b"PK\x03\x04"):
        finder.content("data.pkl", data)
    little = _byteorder(archive)
    _check_version(archive)
    if not archive.in_folder:
        problems.append(
            Problem(
                kind=ProblemKind.NOT_A_CHECKPOINT,
                message="the records of the archive lie in no folder",
                fatal=True,
                what="flat-archive",
                details={"lacks": "folder"},
            )
        )
    storages = _zip_storages(archive, decoded)
    return assemble(
        source,
        layout,
        decoded,
        storages,
        problems=[*(_as_needed(p, archive, storages) for p in archive.problems), *problems],
        limits=limits,
        records=records,
        folder=archive.root,
        pickles=finder.collect(),
        little_endian=little,
    )


def _as_needed(problem: Problem, archive: Archive, storages: Storages) -> Problem:
    """A record without a local header stops torch only where it is read."""
    record = archive.records.get(problem.record or "")
    if problem.kind is not ProblemKind.ARCHIVE_MALFORMED or record is None or record.span.length or not record.size:
        return problem
    name = record.name
    key = name.removeprefix("data/") if name.startswith("data/") else None
    # torch reads these wherever they are there: .format_version, .storage_alignment, .data/serialization_id.
    read = name.startswith(".") or name.endswith("data.pkl") or name in ("version", "byteorder")
    return problem if read or key in storages.entries else replace(problem, fatal=False)


def _zip_storages(archive: Archive, decoded: Decoded) -> Storages:
    found = claims(decoded.persistents)
    out = Storages(claims=found.by_node)
    if found.refused:
        out.problems.append(_bad(None, f"a persistent id is none of torch's: {found.refused[0].reason}"))
    for key, claimed in found.by_key.items():
        name = f"data/{key}"
        record = archive.records.get(name)
        # Where references disagree, the record decides which of them is right.
        claim = claimed[0]
        if len(claimed) > 1:
            claim = next((c for c in claimed if record is not None and c.nbytes == record.size), claim)
            out.problems.append(_bad(name, "two references disagree about the storage's size or type"))
        span, nbytes = None, claim.nbytes
        if record is None:
            out.missing[key] = f"the archive has no record {name}"
            out.problems.append(
                Problem(
                    kind=ProblemKind.RECORD_MISSING,
                    message="the pickle needs this record, and the archive does not have it",
                    fatal=True,
                    record=name,
                )
            )
        else:
            span = None if record.compressed else record.span
            if record.size != nbytes:
                out.problems.append(
                    Problem(
                        kind=ProblemKind.RECORD_SHORT,
                        message=f"the pickle wants {nbytes:,} bytes, the record has {record.size:,}",
                        fatal=record.size < nbytes,
                        record=name,
                    )
                )
            if record.size < nbytes:
                out.missing[key] = f"its record has {record.size:,} of {nbytes:,} bytes"
            elif record.span.end > archive.source.size:
                out.missing[key] = "its record ends behind the file"
        out.entries[key] = StorageEntry(key, claim.dtype, claim.device, claim.numel, nbytes, span)
    return out


def _bad(record: str | None, message: str) -> Problem:
    return Problem(kind=ProblemKind.TENSOR_OUT_OF_BOUNDS, message=message, fatal=True, record=record)


def _byteorder(archive: Archive) -> bool:
    """Whether the values are little-endian; files without the record are (torch before 2.0 wrote no other)."""
    if "byteorder" not in archive.records:
        return True
    text = (archive.read("byteorder", _SMALL) or b"").strip()
    if text not in (b"little", b"big"):
        message = f"the byte order is {text[:20]!r}, neither little nor big"
        archive.problem(ProblemKind.ARCHIVE_MALFORMED, message, record="byteorder")
    return text != b"big"


def _check_version(archive: Archive) -> None:
    """Torch refuses an archive without a version, or with one that it does not know."""
    name = next((n for n in (".data/version", "version") if n in archive.records), None)
    if name is None:
        archive.problem(ProblemKind.RECORD_MISSING, "the archive does not say its version", record="version")
        return
    text = (archive.read(name, _SMALL) or b"").strip()
    if not text.isdigit():
        archive.problem(ProblemKind.ARCHIVE_MALFORMED, f"the version is {text[:20]!r}, no number", record=name)
    elif int(text[:9]) > _NEWEST_FORMAT:
        message = f"the archive has version {int(text[:9])}; torch 2.13 reads up to {_NEWEST_FORMAT}"
        archive.problem(ProblemKind.ARCHIVE_MALFORMED, message, record=name)


def _lacking(archive: Archive) -> str:
    """What torch misses first. Source: caffe2/serialize/inline_container.cc, ``PyTorchStreamReader::init``."""
    if not archive.in_folder:
        return "folder"
    if not any(n in archive.records for n in (".data/version", "version")):
        return "version"
    return "data.pkl" if archive.find("data.pkl") is None else ""


def other_archive(source: ByteSource, archive: Archive, layout: Layout, what: str, limits: Limits) -> Checkpoint:
    """An archive that is no checkpoint of torch.save: named as what it is, its pickles looked at all the same."""
    finder = Finder(limits)
    records = tuple(archive.records.values())
    finder.records(archive, (*records, *archive.doubles))
    problem = Problem(
        kind=ProblemKind.NOT_A_CHECKPOINT,
        message=f"the archive's records are those of {what}",
        fatal=True,
        what=what,
        details={"lacks": _lacking(archive)},
    )
    fatal = [p for p in archive.problems if p.kind in (ProblemKind.ENCRYPTED, ProblemKind.ARCHIVE_AMBIGUOUS)]
    return unusable(source, layout, (*fatal, problem), records=records, pickles=finder.collect())


# ---------------------------------------------------------------- stacked pickles


def read_legacy(source: ByteSource, limits: Limits) -> Checkpoint:
    """Five pickles in a row, then the storages: element count and bytes each, in the order of the key list."""
    head = source.read(0, min(source.size, limits.pickle_bytes))
    position = 0
    problems: list[Problem] = []
    parts: list[Decoded] = []
    steps = ("magic number", "protocol version", "system information", "object", "list of storages")
    finder = Finder(limits)
    for step in steps:
        part = decode(head, position, limits=limits)
        parts.append(part)
        finder.inside(part, "")
        if part.stream.end is None:
            problems += [_at(p, step, position) for p in part.problems]
            break
        position = part.stream.end
    body = parts[3] if len(parts) > 3 else None
    others = tuple(p.pickled(step) for p, step in zip(parts, steps, strict=False) if p is not body)
    if body is None or body.stream.end is None:
        return unusable(source, Layout.TORCH_LEGACY, problems, body, pickles=(*others, *finder.collect()))
    info = parts[2].value
    problems += _legacy_header(parts[1].value, info)
    order = ">" if mapping_get(info, "little_endian") is False else "<"
    storages = Storages()
    if len(parts) == 5 and parts[4].stream.end is not None:
        storages = _legacy_storages(source, body, parts[4].value, position, order, finder)
    else:
        for key, claimed in claims(body.persistents).by_key.items():
            storages.entries[key] = _entry(claimed[0], None)
            storages.missing[key] = "the file ends before the storages"
    return assemble(
        source,
        Layout.TORCH_LEGACY,
        body,
        storages,
        problems=problems,
        limits=limits,
        pickles=(*others, *finder.collect()),
        little_endian=order == "<",
    )


def _at(problem: Problem, step: str, position: int) -> Problem:
    return Problem(
        kind=problem.kind,
        message=f"{step}: {problem.message}",
        fatal=True,
        what=problem.what,
        position=position + (problem.position or 0),
    )


def _legacy_header(protocol: Value, info: Value) -> list[Problem]:
    """What torch compares before it reads the object."""
    kind = ProblemKind.PICKLE_MALFORMED
    if protocol != PROTOCOL or protocol.__class__ is not int:
        shown = protocol if isinstance(protocol, int) else "no number"
        return [Problem(kind=kind, message=f"the protocol version is {shown}, not {PROTOCOL}", fatal=True)]
    if mapping_pairs(info) is None:
        return [Problem(kind=kind, message="the system information is no dict", fatal=True)]
    return []


def _entry(claim: StorageClaim, span: Span | None) -> StorageEntry:
    return StorageEntry(claim.key, claim.dtype, claim.device, claim.numel, claim.nbytes, span)


def _legacy_storages(
    source: ByteSource, body: Decoded, keys: Value, position: int, order: str, finder: Finder
) -> Storages:
    """Walk the storages by their counts; they are in the order of the key list, which is that of the bytes."""
    found = claims(body.persistents)
    out = Storages(claims=found.by_node)
    problems = out.problems
    if found.refused:
        problems.append(_bad(None, f"a persistent id is none of torch's: {found.refused[0].reason}"))
    for key, claimed in found.by_key.items():
        out.entries[key] = _entry(claimed[0], None)
        out.missing[key] = "the file ends before its storage"
        if len(claimed) > 1:
            problems.append(_bad(f"storage {key}", "two references disagree about the storage's size or type"))
    if not isinstance(keys, ListNode) or not all(isinstance(k, str) for k in keys.items):
        message = "the list of storages is no list of keys"
        problems.append(Problem(kind=ProblemKind.PICKLE_MALFORMED, message=message, fatal=True))
        return out
    for key in (k for k in keys.items if isinstance(k, str)):
        entry = out.entries.get(key)
        raw = source.read(position, 8)
        if entry is None:
            message = f"storage {key} is listed, and the object does not use it"
            if not found.refused:  # else it is the one whose id makes no sense, which was said
                problem = Problem(kind=ProblemKind.PICKLE_MALFORMED, message=message, fatal=True, position=position)
                problems.append(problem)
            return out
        if len(raw) < 8:
            message = f"storage {key} is missing: the file ends before it"
            problems.append(Problem(kind=ProblemKind.TRUNCATED, message=message, fatal=True, position=position))
            return out
        (count,) = struct.unpack(order + "q", raw)
        if count != entry.numel:
            message = f"the object wants {entry.numel:,} elements, the file announces {count:,}"
            problems.append(_bad(f"storage {key}", message))
            return out
        if position + 8 + entry.nbytes > source.size:
            left = max(source.size - position - 8, 0)
            message = f"storage {key} has {entry.nbytes:,} bytes, {left:,} are left"
            problems.append(Problem(kind=ProblemKind.TRUNCATED, message=message, fatal=True, position=position))
            return out
        out.entries[key] = StorageEntry(
            key, entry.dtype, entry.device, entry.numel, entry.nbytes, Span(position + 8, entry.nbytes)
        )
        out.missing.pop(key, None)
        position += 8 + entry.nbytes
    for absent in out.missing:
        message = "the object needs this storage, and the list does not have it"
        problems.append(
            Problem(kind=ProblemKind.RECORD_MISSING, message=message, fatal=True, record=f"storage {absent}")
        )
        out.missing[absent] = "the list of storages does not have its storage"
    if position < source.size:
        message = f"{source.size - position:,} bytes stand after the last storage"
        problems.append(Problem(kind=ProblemKind.BYTES_AFTER, message=message, position=position))
        rest = source.read(position, finder.limits.verified_bytes)
        if any(rest):
            finder.content("the bytes behind the storages", rest)
    return out


# ---------------------------------------------------------------- a pickle, and nothing of torch


def read_pickle(source: ByteSource, limits: Limits) -> Checkpoint:
    """A pickle that is no torch file: read all the same, since it may be a state_dict of arrays or a broken file."""
    data = source.read(0, min(source.size, limits.pickle_bytes))
    decoded = decode(data, limits=limits)
    problems = list(decoded.problems)
    finder = Finder(limits)
    finder.inside(decoded, "")
    others = []
    if decoded.stream.end is not None:
        problems.append(
            Problem(
                kind=ProblemKind.NOT_A_CHECKPOINT,
                message="a pickle that refers to storages, which are not in the file"
                if decoded.persistents
                else "a pickle, but not one that torch.save wrote",
                fatal=True,
                what="data-pkl" if decoded.persistents else "plain-pickle",
            )
        )
        for part in in_a_row(data, decoded.stream.end, limits):
            others.append(part.pickled("the bytes behind the pickle"))
            problems += [p for p in part.problems if not others[1:]]
    return assemble(
        source,
        Layout.PICKLE,
        decoded,
        Storages(),
        problems=problems,
        limits=limits,
        pickles=(*others, *finder.collect()),
    )


def is_magic(value: Value) -> bool:
    """Whether the first pickle of a file is torch's magic number."""
    return value.__class__ is int and value == MAGIC

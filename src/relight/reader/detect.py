"""What a thing is, by its bytes and never by its name; and what a non-checkpoint really is."""

from __future__ import annotations

import gc
import os
import re
from dataclasses import replace

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind
from relight.core.objects import Value
from relight.reader import recovery, remote, safetensors, tar_member, torch_file, torch_tar
from relight.reader.archive import Archive
from relight.reader.assemble import unusable
from relight.reader.limits import DEFAULT_LIMITS, Limits
from relight.reader.nested import Finder, npy_payload
from relight.reader.pickle_vm import decode
from relight.reader.sharded import read_folder
from relight.reader.source import ByteSource, open_local

_HEAD = 4096

# First bytes of formats that people take for checkpoints. Sources: the formats' own specifications.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"GGUF", "gguf"),
    (b"GGML", "gguf"),
    (b"\x93NUMPY", "npy"),
    (b"version https://git-lfs.github.com/spec/", "git-lfs-pointer"),
    (b"/annex/objects/", "git-annex-pointer"),
)
_TEXT_START = re.compile(rb"^[\x09\x0a\x0d\x20-\x7e\x80-\xff]+$")


def open_checkpoint(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> Checkpoint:
    """Read a checkpoint without executing anything in it.

    Args:
        path: A file, a folder, or the URL of a file.
        limits: What reading may cost.

    Returns:
        What was read. Bad content never raises: it becomes ``problems``.

    Raises:
        SourceError: The path cannot be opened.
    """
    if os.path.isdir(path):
        return read_folder(os.fspath(path), limits, lambda source: read(source, limits=limits))
    source = open_source(path)
    try:
        return read(source, limits=limits)
    finally:
        source.close()


def open_source(path: str | os.PathLike[str]) -> ByteSource:
    """The bytes of a file or a URL.

    Raises:
        SourceError: It cannot be opened.
    """
    name = os.fspath(path)
    return remote.open_url(name) if remote.is_url(name) else open_local(path)


def read(source: ByteSource, *, limits: Limits = DEFAULT_LIMITS) -> Checkpoint:
    """Read what a source holds; see `open_checkpoint`."""
    # A large file makes millions of objects, and no garbage: the collector would walk them over and over.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _read(source, limits)
    finally:
        if collecting:
            gc.enable()


def _read(source: ByteSource, limits: Limits) -> Checkpoint:
    if source.size == 0:
        return _nothing(source, Problem(kind=ProblemKind.EMPTY, message="the file has no bytes", fatal=True))
    head = source.read(0, _HEAD)
    if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
        return _zip(source, limits)
    if not any(head) and _all_zero(source):
        return _nothing(
            source,
            Problem(kind=ProblemKind.ALL_ZERO, message=f"all of the {source.size:,} bytes are zero", fatal=True),
        )
    if safetensors.looks_like(head, source.size):
        return safetensors.read(source, limits)
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return _named(source, what, head, limits)
    if head[257:262] == b"ustar" or _is_old_tar(head):
        members = tar_member.members(source, limits.records)
        if torch_tar.is_torch(members):
            return torch_tar.read(source, members, limits)
        return _nothing(source, _other("tar", head))
    first = decode(source.read(0, min(source.size, 64)), limits=limits)
    if torch_file.is_magic(first.value):
        return torch_file.read_legacy(source, limits)
    return _text_or_pickle(source, head, first.value, limits)


def _nothing(source: ByteSource, *problems: Problem, layout: Layout = Layout.NOT_A_CHECKPOINT) -> Checkpoint:
    return Checkpoint(
        origin=source.name,
        nbytes=source.size,
        layout=layout,
        problems=problems,
        bytes_read=source.bytes_read,
    )


def _named(source: ByteSource, what: str, head: bytes, limits: Limits) -> Checkpoint:
    """A file of another format; an array of objects holds a pickle, which numpy would follow."""
    finder = Finder(limits)
    if what == "npy" and npy_payload(head) < len(head):
        finder.content("the array", source.read(0, limits.nested_bytes))
    return unusable(source, Layout.NOT_A_CHECKPOINT, [_other(what, head)], pickles=finder.collect())


def _all_zero(source: ByteSource) -> bool:
    """Whether the whole file is zero: looked at in full up to 64 MiB, at both ends and the middle beyond."""
    step, size = 1 << 20, source.size
    if size <= 64 << 20:
        starts: list[int] = list(range(0, size, step))
    else:
        starts = [0, size // 4, size // 2, size - step]
    return not any(any(source.read(at, step)) for at in starts)


def _other(what: str, head: bytes) -> Problem:
    details: dict[str, str | int] = {"begins": head[:16].hex()}
    if what == "git-lfs-pointer":
        for line in head.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name == "oid":
                details["sha256"] = value.removeprefix("sha256:")
            elif name == "size" and value.strip().isdigit():
                details["size"] = int(value)
    return Problem(
        kind=ProblemKind.NOT_A_CHECKPOINT,
        message=f"the file is {what}, by its first bytes",
        fatal=True,
        what=what,
        details=details,
    )


def _zip(source: ByteSource, limits: Limits) -> Checkpoint:
    archive = Archive(source, limits)
    if not archive.usable:
        if any(p.kind is ProblemKind.NO_CENTRAL_DIRECTORY for p in archive.problems):
            return recovery.read_cut_zip(source, archive, limits)
        return _nothing(source, *archive.problems, layout=Layout.TORCH_ZIP)
    names = archive.records
    data = archive.find("data.pkl")
    if data is not None and ("constants.pkl" in names or any(n.startswith("code/") for n in names)):
        return torch_file.other_archive(source, archive, Layout.TORCHSCRIPT, "torchscript", limits)
    if data is not None:
        return torch_file.read_zip(source, archive, limits)
    what = _zip_kind(archive)
    if what == "damaged":
        archive.problem(ProblemKind.RECORD_MISSING, "the archive has no data.pkl", record="data.pkl")
        finder = Finder(limits)
        finder.records(archive, (*archive.records.values(), *archive.doubles))
        return unusable(source, Layout.TORCH_ZIP, archive.problems, pickles=finder.collect())
    return torch_file.other_archive(source, archive, Layout.NOT_A_CHECKPOINT, what, limits)


def _zip_kind(archive: Archive) -> str:
    names = list(archive.records)
    tails = {n.rpartition("/")[2] for n in names}
    if (
        "archive_format" in tails
        or any(n.startswith(("models/", "data/aotinductor")) for n in names)
        or ("serialized_exported_program.json" in tails)
    ):
        return "torch-export"
    if names and all(n.endswith(".npy") for n in names):
        return "npz"
    if "constants.pkl" in tails:
        return "torchscript"
    if any(n.startswith("data/") for n in names) and ("version" in names or "byteorder" in names):
        return "damaged"
    if any(n.endswith((".ckpt", ".pt", ".pth", ".bin", ".safetensors")) for n in names) or "data.pkl" in tails:
        return "nested-zip" if archive.root else "nested-zip-flat"
    return "zip"


def _is_old_tar(head: bytes) -> bool:
    """A tar without magic: an octal checksum of the header that is right."""
    if len(head) < 512:
        return False
    field = head[148:156].strip(b" \0")
    try:
        claimed = int(field, 8) if field else -1
    except ValueError:
        return False
    return claimed == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def _text_or_pickle(source: ByteSource, head: bytes, first: Value, limits: Limits) -> Checkpoint:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lowered = text[:512].lower()
    what = None
    if lowered.startswith((b"<!doctype html", b"<html")) or (lowered.startswith(b"<") and b"<html" in lowered):
        what = "html"
    elif lowered.startswith(b"<"):
        what = "xml"
    elif text[:1] in (b"{", b"[") and _TEXT_START.match(head[:1024]) and b"\x00" not in head:
        what = "json"
    if what is not None:
        return _nothing(source, _other(what, head))
    pickled = torch_file.read_pickle(source, limits)
    if pickled.stream is not None:
        return pickled
    if _zip_behind(source):
        archive = Archive(source, limits)
        if archive.usable and archive.find("data.pkl") is not None:
            # torch does not look for it there; whoever cuts off what stands before it gets a checkpoint.
            found = torch_file.read_zip(source, archive, limits)
            return replace(found, pickles=(*found.pickles, *pickled.pickles))
        finder = Finder(limits)
        finder.records(archive, (*archive.records.values(), *archive.doubles))
        pickles = (*pickled.pickles, *finder.collect())
        return unusable(source, Layout.TORCH_ZIP, archive.problems, pickles=pickles)
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return pickled  # starts like a pickle and breaks: damage, not another format
    if _is_onnx(head):
        return _nothing(source, _other("onnx", head))
    if _TEXT_START.match(head) and b"\x00" not in head:
        yaml = re.match(rb"^(---|#|[A-Za-z_][\w.-]*:(\s|$))", text) is not None
        return _nothing(source, _other("yaml" if yaml else "text", head))
    if any(p.kind is ProblemKind.LIMIT for p in pickled.problems):
        return pickled
    return _nothing(source, _other("unknown", head))


def _is_onnx(head: bytes) -> bool:
    """A ModelProto: its version, and then the name of the program that wrote it.

    Source: onnx/onnx.proto: ``ir_version = 1``, ``producer_name = 2``, ``producer_version = 3``, ``graph = 7``.
    """
    if head[:1] != b"\x08" or len(head) < 5 or not 1 <= head[1] < 32:
        return False
    if head[2] == 0x12 and head[3] < 64:
        name, after = head[4 : 4 + head[3]], head[4 + head[3] : 5 + head[3]]
        return name.isascii() and name.decode("ascii", "replace").isprintable() and after in (b"\x1a", b"\x22", b":")
    return b"onnx" in head[:200].lower()


def _zip_behind(source: ByteSource) -> bool:
    """Whether a zip archive ends this file although it does not start it."""
    tail = source.read(max(source.size - (64 << 10), 0), 64 << 10)
    return b"PK\x05\x06" in tail and b"PK\x01\x02" in tail

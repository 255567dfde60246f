"""Tensors as a safetensors file, and what else a checkpoint holds beside it, in bounded memory.

The weights go into the file that was asked for, under their names, so that any program loads it. What is no tensor of
the state_dict goes into ``NAME.rest.json``; tensors that the state_dict does not have (those of optimizers), storages
that several tensors share parts of, and types that safetensors lacks go into ``NAME.rest.safetensors``.
Format: the README of safetensors, section "Format".
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from relight.core.checkpoint import StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError
from relight.core.objects import Call, ObjectPath, Persistent, nodes, walk
from relight.core.version import __version__
from relight.reader import DEFAULT_LIMITS
from relight.reader.tensors import StorageClaim, TensorReader, rebuilds_tensor, storage_claim
from relight.reader.values import is_contiguous
from relight.repair import sidecar
from relight.repair.copying import Progress, WriteBehind, copy_range, new_file, settle, write_all, written_to
from relight.repair.material import Material, elements
from relight.repair.pickle_out import Unwritable
from relight.repair.proving import NOT_EQUAL, Check, Comparing, need_proof, read_again, same_bytes, settling
from relight.repair.stored import FileRange, Files, Stored

_HEADER_ALIGNMENT = 64


@dataclass(slots=True)
class Tensors:
    """Tensors of one file, by name: dtype, shape, bytes."""

    entries: dict[str, tuple[str, tuple[int, ...], Stored]] = field(default_factory=dict)

    def add(self, name: str, dtype: str, shape: tuple[int, ...], content: Stored) -> None:
        """Add one."""
        self.entries[name] = (dtype, shape, content)


@dataclass(slots=True)
class Layout:
    """What goes where.

    Attributes:
        weights: The file that was asked for.
        rest: Tensors of the file beside it; empty where there are none.
        document: What becomes of the rest as JSON; None where it is not wanted.
        left_out: Tensors of the state_dict that the weights do not have: (name, why).
    """

    weights: Tensors
    rest: Tensors
    document: dict[str, object] | None
    left_out: list[tuple[str, str]]


def beside(output: str) -> tuple[str, str]:
    """Where the rest goes: the JSON, and its tensors."""
    stem = output.removesuffix(".safetensors")
    return f"{stem}.rest.json", f"{stem}.rest.safetensors"


def planned(material: Material, output: str, *, rest: bool) -> Layout:
    """Decide what goes where.

    Args:
        material: What is written.
        output: The file that was asked for.
        rest: Whether what is no weight is wanted.

    Raises:
        RepairError: safetensors cannot hold it.
    """
    if not material.little_endian:
        raise RepairError(material.origin, "its values are big-endian, and those of safetensors are not")
    weights, others = Tensors(), Tensors()
    left_out = [*material.left_out, *material.unplain]
    for entry in material.tensors:
        storage = material.storages[entry.storage_id or ""]
        if BY_NAME[entry.dtype].safetensors is None:
            left_out.append((entry.key, f"safetensors has no type {entry.dtype}"))
        else:
            weights.add(entry.key, entry.dtype, entry.shape, elements(entry, storage))
    if not weights.entries and not rest:
        raise RepairError(material.origin, "it has no tensors that safetensors could hold")
    if not rest:
        return Layout(weights, others, None, left_out)
    whole = _whole(material)
    places: list[list[str]] = []
    used: set[str] = set(others.entries)
    names = _names(material)
    for key, claim in _claims(material).items():
        content = material.storages.get(key)
        if content is None or content.nbytes < claim.nbytes:
            raise RepairError(material.origin, f"the bytes of storage {key} are not all there")
        if key in whole:
            places.append([key, "weights", whole[key]])
            continue
        name, dtype, shape = names.get(key, (f"storage.{key}", "uint8", (content.nbytes,)))
        if name in used:
            name, dtype, shape = f"storage.{key}", "uint8", (content.nbytes,)
        used.add(name)
        others.add(name, dtype, shape, content)
        places.append([key, "rest", name])
    try:
        tree = sidecar.to_json(material.root)
    except Unwritable as error:
        raise RepairError(material.origin, f"{error}; --no-rest writes the weights alone") from None
    document = {
        "schema": sidecar.SCHEMA,
        "relight_version": __version__,
        "source": material.layout.value,
        "weights": os.path.basename(output),
        "rest": os.path.basename(beside(output)[1]) if others.entries else None,
        "storages": places,
        "root": tree,
    }
    return Layout(weights, others, document, left_out)


def _whole(material: Material) -> dict[str, str]:
    """Storages that are one tensor of the weights, by key."""
    out: dict[str, str] = {}
    for entry in material.tensors:
        storage = material.storages[entry.storage_id or ""]
        dtype = BY_NAME[entry.dtype]
        if (
            dtype.safetensors is not None
            and is_contiguous(entry)
            and entry.offset == 0
            and entry.numel * dtype.itemsize == storage.nbytes
        ):
            out.setdefault(entry.storage_id or "", entry.key)
    return out


def _claims(material: Material) -> dict[str, StorageClaim]:
    out: dict[str, StorageClaim] = {}
    for node in nodes(material.root):
        if isinstance(node, Persistent):
            claim = storage_claim(node.pid)
            if not isinstance(claim, StorageClaim):
                raise RepairError(material.origin, f"a persistent id is none of torch's: {claim.reason}")
            known = out.setdefault(claim.key, claim)
            if claim.nbytes > known.nbytes:
                out[claim.key] = claim
    order = {key: i for i, key in enumerate(material.storages)}
    return dict(sorted(out.items(), key=lambda item: order.get(item[0], len(order))))


def _names(material: Material) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """For storages that one tensor fills: where that tensor is, its type and shape, so that people find it."""
    claims = _claims(material)
    entries = {k: StorageEntry(k, c.dtype, c.device, c.numel, c.nbytes, None) for k, c in claims.items()}
    reader = TensorReader(entries)
    out: dict[str, tuple[str, str, tuple[int, ...]]] = {}
    for path, value in walk(material.root):
        if not isinstance(value, Call) or not rebuilds_tensor(value):
            continue
        found = reader.read(value, "", path)
        if not isinstance(found, TensorEntry) or found.layout != "strided" or found.storage_id is None:
            continue
        dtype = BY_NAME[found.dtype]
        content = material.storages.get(found.storage_id)
        if dtype.safetensors is None or content is None or not is_contiguous(found) or found.offset:
            continue
        if found.numel * dtype.itemsize == content.nbytes:
            out.setdefault(found.storage_id, (_plain(path), found.dtype, found.shape))
    return out


def _plain(path: ObjectPath) -> str:
    return ".".join(str(step).lstrip(".") for step in path) or "$"


def write(
    material: Material, layout: Layout, output: str, progress: Progress | None = None, *, whole: bool = False
) -> tuple[list[tuple[str, str]], list[Check]]:
    """Write the files; they get their names once they are proved, the one that was asked for last.

    Args:
        material: What is written.
        layout: What goes where.
        output: The file that was asked for.
        progress: Called with the number of bytes written since the last call.
        whole: Whether the proof compares bytes also where the source records a checksum.

    Returns:
        ((path, what it holds), the file that was asked for first; what was proved).

    Raises:
        RepairError: They cannot be written, or the proof fails.
    """
    text, tensors = beside(output)
    written = [(output, "weights")]
    checks: list[Check] = []
    own: dict[str, int] = {}
    try:
        with contextlib.ExitStack() as stack:
            # What is entered first gets its name last.
            main = stack.enter_context(new_file(output, material.like))
            with written_to(output, material.like):
                equal = _write(main.descriptor, layout.weights, material.files, progress)
                with settling(main, material.like):
                    known = {} if whole else equal
                    checks.append(_proved(main.descriptor, output, layout.weights, known, whole=whole))
            if layout.document is not None:
                document = stack.enter_context(new_file(text, material.like))
                written.append((text, "rest"))
                own[text] = os.fstat(document.descriptor).st_ino
                with written_to(text, material.like):
                    at = 0
                    for line in sidecar.lines(layout.document):
                        write_all(document.descriptor, line.encode(), at)
                        at += len(line.encode())
                    settle(document, material.like)
                checks.append(_document_proved(document.descriptor, text, layout.document))
            if layout.rest.entries:
                other = stack.enter_context(new_file(tensors, material.like))
                written.append((tensors, "rest-tensors"))
                own[tensors] = os.fstat(other.descriptor).st_ino
                with written_to(tensors, material.like):
                    equal = _write(other.descriptor, layout.rest, material.files, progress)
                    with settling(other, material.like):
                        known = {} if whole else equal
                        checks.append(_proved(other.descriptor, tensors, layout.rest, known, whole=whole))
            need_proof(checks, material.origin)
    except BaseException:
        for path, number in own.items():
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino == number:  # else somebody else's
                    os.unlink(path)
        raise
    return written, checks


def _write(target: int, tensors: Tensors, files: Files, progress: Progress | None) -> dict[str, int]:
    """Write one file; where the tensors are that were compared on the way, and are equal."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    # Large types first, as the library itself orders them: then each starts at a multiple of its size.
    order = sorted(tensors.entries.items(), key=lambda item: -BY_NAME[item[1][0]].itemsize)
    for name, (dtype, shape, content) in order:
        header[name] = {
            "dtype": BY_NAME[dtype].safetensors,
            "shape": list(shape),
            "data_offsets": [at, at + content.nbytes],
        }
        at += content.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(len(raw) + 8) % _HEADER_ALIGNMENT)
    write_all(target, struct.pack("<Q", len(raw)) + raw, 0)
    position = 8 + len(raw)
    comparing, behind = Comparing(target), WriteBehind(target)

    def wrote(count: int) -> None:
        behind.wrote(count)
        if progress is not None:
            progress(count)

    try:
        for name, (_, _, content) in order:
            start = position
            if isinstance(content, FileRange):
                descriptor = files.descriptor(content.path)
                copy_range(descriptor, content.start, content.nbytes, target, position, wrote)
                position += content.nbytes
            else:
                for data in content.chunks():
                    write_all(target, data, position)
                    position += len(data)
                    wrote(len(data))
            if content.crc is not None:
                comparing.add(name, start, content)
        os.ftruncate(target, position)
    finally:
        try:
            comparing.close()
        finally:
            behind.stop()
    return comparing.equal


def _document_proved(target: int, path: str, document: Mapping[str, object]) -> Check:
    with os.fdopen(os.dup(target), "rb") as file:
        file.seek(0)
        same = json.load(file) == document
    return (
        "the rest",
        same,
        f"{os.path.basename(path)} {'says what it should' if same else 'is not what was written'}",
    )


def _proved(target: int, path: str, tensors: Tensors, known: dict[str, int], *, whole: bool) -> Check:
    """Read a new file again and compare every tensor, but those that are known to be equal where the header has them."""
    new = read_again(target, path)
    wrong = new.problems[0].message if new.problems else ""
    found = {t.key: t for t in new.tensors}
    if found.keys() != tensors.entries.keys():
        wrong = wrong or "its names are not those that were to be written"
    for name, (dtype, shape, content) in tensors.entries.items():
        entry, storage = found.get(name), new.storages.get(name)
        if entry is None or storage is None or storage.span is None:
            continue
        start, length = storage.span
        equal = known.get(name) == start and length == content.nbytes
        equal = equal or same_bytes(target, start, length, content, whole=whole)
        if not equal or (entry.dtype, entry.shape) != (dtype, shape):
            wrong = wrong or f"{name} {NOT_EQUAL}"
    count = f"{len(tensors.entries):,} tensor{'' if len(tensors.entries) == 1 else 's'}"
    return ("tensors", not wrong, wrong or f"{count} of {os.path.basename(path)} equal, value by value")


def read_sidecar(path: str) -> Mapping[str, object] | None:
    """The JSON beside a safetensors file that relight wrote; None where there is none.

    Raises:
        RepairError: There is one, and it is not for this file.
    """
    text, _ = beside(path)
    if not os.path.exists(text):
        return None
    try:
        if os.path.getsize(text) > DEFAULT_LIMITS.pickle_bytes * 4:
            raise RepairError(text, "it is larger than any that relight writes")
        with open(text, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise RepairError(text, f"it cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != sidecar.SCHEMA:
        raise RepairError(text, f"it is none of relight's: its schema is not {sidecar.SCHEMA}")
    return found

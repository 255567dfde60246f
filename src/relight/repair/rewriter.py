"""The old file to the new one: what a plan changes is written anew, everything else is copied by the kernel.

Stored tensors are never decoded. The new pickle is decoded again before a byte is written, and has to be the tree that
the plan asks for. Memory is bounded by the pickle and the largest tensor that is put together.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from relight.core.checkpoint import Checkpoint, Layout, Record, StorageEntry, TensorEntry
from relight.core.edits import (
    AddNames,
    ArrangeOptimizer,
    ComputeTensors,
    ConvertTensors,
    DropEntry,
    DropKeys,
    Edit,
    MakePlain,
    MoveEntry,
    OrderKeys,
    Plan,
    RenameKeys,
    ReplaceGlobal,
    SetDevice,
    SetEntry,
    WrapEntry,
    Written,
)
from relight.core.errors import RepairError
from relight.core.objects import ListNode, Persistent, Value, mapping_get, nodes
from relight.facts.describe import counted
from relight.facts.patterns import ends_cut, folded_pairs
from relight.facts.repairable import HARMLESS, WRITABLE
from relight.reader import DEFAULT_LIMITS
from relight.reader.archive import Archive
from relight.reader.assemble import claims
from relight.reader.detect import read
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import ByteSource, LocalSource
from relight.repair.computing import content
from relight.repair.copying import BLOCK, Progress, new_file, refuse_existing, settle, written_to
from relight.repair.graphs import same_graph
from relight.repair.pickle_out import Unwritable, encode, lowered
from relight.repair.sinks import FileSink, Sink, Spliced
from relight.repair.token_edit import edit_tokens
from relight.repair.tree_edit import CannotEdit, Edited, edit_tree
from relight.repair.zip_out import ZipOut

_ID = ".data/serialization_id"
# What only tells torch where storages are without looking: it is wrong as soon as storages come or go.
_FORMAT = (".format_version", ".storage_alignment")
_SMALL = 1 << 20
_SHARED = 4 << 20  # bytes of storages that are worth a gap of up to a block, so that file systems can share them
_LOCAL = b"PK\x03\x04"


def digest_of(path: str, checkpoint: Checkpoint | None = None) -> str:
    """What tells a file from any other without reading its tensors: everything but their bytes, and their checksums.

    Args:
        path: The file.
        checkpoint: What was read of it, where that was done already: then its directory is not read again.

    Raises:
        SourceError: It cannot be opened.
    """
    source = LocalSource(path)
    try:
        if checkpoint is not None and checkpoint.layout is Layout.TORCH_ZIP and source.read(0, 4) == _LOCAL:
            record = next((r for r in checkpoint.records if r.name == "data.pkl"), None)
            if record is not None and not record.compressed and record.size <= DEFAULT_LIMITS.pickle_bytes:
                return digest_of_records(source.size, checkpoint.records, source.read(*record.span))
        return digest_of_source(source)
    finally:
        source.close()


def digest_of_records(size: int, records: Iterable[Record], pickle: bytes) -> str:
    """`digest_of`, of the parts that it is made of.

    Args:
        size: Of the file.
        records: Of the archive, in the order of its directory.
        pickle: Its data.pkl.
    """
    out = hashlib.sha256(str(size).encode())
    for record in records:
        out.update(f"\n{record.name} {record.size} {record.crc32} {record.span.start}".encode("utf-8", "replace"))
    out.update(pickle)
    return f"sha256:{out.hexdigest()}"


def _digest(source: ByteSource, archive: Archive | None) -> str:
    if archive is not None:
        name = archive.find("data.pkl")
        data = b"" if name is None else archive.read(name, DEFAULT_LIMITS.pickle_bytes) or b""
        return digest_of_records(source.size, archive.records.values(), data)
    out = hashlib.sha256(str(source.size).encode())
    length = min(struct.unpack("<Q", source.read(0, 8).ljust(8, b"\0"))[0], 100 << 20)
    out.update(source.read(0, max(_SMALL, length + 8)))
    out.update(source.read(max(source.size - _SMALL, 0), _SMALL))
    return f"sha256:{out.hexdigest()}"


def rewrite(
    plan: Plan,
    path: str,
    output: str,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    prove: Callable[[Written], None] | None = None,
) -> Written:
    """Write a new file as a plan says.

    Args:
        plan: What changes.
        path: The file; it is only read.
        output: The new file; nothing may be there.
        checkpoint: What was read of the file, where that was done already.
        progress: Called with the number of bytes written since the last call.
        announce: Called with one line where something unexpected was found on the disk.
        prove: Called when all is on the disk, under a name that nobody uses yet, which is the ``path`` of what it gets.
            Where it raises, there is no new file.

    Returns:
        What was done.

    Raises:
        SourceError: The file cannot be opened.
        RepairError: The plan does not fit the file, or the new file cannot be written; then there is none.
    """
    refuse_existing(output, path)
    if os.path.isdir(path):
        raise RepairError(path, "it is a folder; only single files are written yet")
    source = LocalSource(path)
    try:
        with new_file(output, path, announce) as new:
            with opened(plan, source, checkpoint) as (found, archive), written_to(output, path):
                writer: _Safetensors | _Pickled
                if found.layout is Layout.SAFETENSORS:
                    writer = _Safetensors(source, found, plan.edits)
                else:
                    writer = _Pickled(source, found, plan.edits, archive)
                sink = FileSink(new.descriptor)
                try:
                    written = writer.emit(sink, progress)
                finally:
                    sink.close()
                settle(new, path)
            written = replace(written, path=new.path, digest=digest_of(new.path))
            if prove is not None:
                prove(written)
    finally:
        source.close()
    return replace(written, path=output)


def splice(plan: Plan, source: ByteSource, *, checkpoint: Checkpoint | None = None) -> tuple[Spliced, Written]:
    """The new file as `rewrite` would write it, without writing it: what did not change is read from the old file.

    Args:
        plan: What changes.
        source: The old file; it has to stay open as long as the new one is read.
        checkpoint: What was read of it, where that was done already.

    Returns:
        (the new file, what was done).

    Raises:
        RepairError: The plan does not fit the file.
    """
    out = Spliced()
    with opened(plan, source, checkpoint) as (found, archive):
        if found.layout is Layout.SAFETENSORS:
            raise RepairError(source.name, "a safetensors file is not what torch.load reads")
        return out, _Pickled(source, found, plan.edits, archive).emit(out, None)


@dataclass(frozen=True, slots=True)
class Drafted:
    """What a plan makes of a file, before anything is written.

    Attributes:
        pickle: The new one.
        decoded: What it says, decoded from its bytes.
        made: Whether storages are written anew.
        kept: Records that the new version has, by name.
        written: What would be done.
    """

    pickle: bytes
    decoded: Decoded
    made: bool
    kept: frozenset[str]
    written: Written


def drafted(plan: Plan, source: ByteSource, checkpoint: Checkpoint, archive: Archive | None) -> Drafted:
    """What a plan makes of an archive of torch.save, which `opened` has opened.

    Raises:
        RepairError: The file is no archive.
        CannotEdit: The plan does not fit the file.
    """
    if archive is None or checkpoint.layout is not Layout.TORCH_ZIP:
        raise RepairError(source.name, f"its layout is {checkpoint.layout.value}")
    return _Pickled(source, checkpoint, plan.edits, archive).drafted()


def digest_of_source(source: ByteSource) -> str:
    """`digest_of`, of what is open already."""
    return _digest(source, Archive(source, DEFAULT_LIMITS) if source.read(0, 4) == _LOCAL else None)


@contextlib.contextmanager
def opened(
    plan: Plan, source: ByteSource, checkpoint: Checkpoint | None
) -> Iterator[tuple[Checkpoint, Archive | None]]:
    """What a plan is applied to, once it is clear that it can be.

    Raises:
        RepairError: The plan is for another file, or does not fit this one; the file is damaged.
    """
    # Millions of small objects that live to the end: the collector would walk them over and over.
    collecting = gc.isenabled()
    gc.disable()
    try:
        archive = Archive(source, DEFAULT_LIMITS) if source.read(0, 4) == _LOCAL else None
        if _digest(source, archive) != plan.digest:
            raise RepairError(source.name, "the plan is for another file, or the file has changed since")
        checkpoint = read(source) if checkpoint is None else checkpoint
        _check_sound(checkpoint, plan.edits)
        yield checkpoint, archive
    except (CannotEdit, Unwritable) as error:
        raise RepairError(source.name, str(error)) from None
    finally:
        if collecting:
            gc.enable()


def _check_sound(checkpoint: Checkpoint, edits: Sequence[Edit]) -> None:
    if checkpoint.layout not in WRITABLE:
        raise RepairError(checkpoint.origin, f"files of layout {checkpoint.layout.value} are not written yet")
    if not checkpoint.readable:
        first = checkpoint.problems[0].message if checkpoint.problems else "it holds no objects"
        raise RepairError(checkpoint.origin, f"it cannot be read: {first}")
    for problem in checkpoint.problems:
        if problem.kind not in HARMLESS:
            raise RepairError(checkpoint.origin, f"it is damaged, which a copy would hide: {problem.message}")
    if checkpoint.lost:
        raise RepairError(checkpoint.origin, f"the values of {checkpoint.lost[0].key} are not all there")
    if checkpoint.layout is Layout.SAFETENSORS and any(not isinstance(e, (RenameKeys, DropKeys)) for e in edits):
        raise RepairError(checkpoint.origin, "in a safetensors file only names can be changed, and tensors left out")


# ---------------------------------------------------------------- files with a pickle


@dataclass(slots=True)
class _Part:
    """A record of the new file: bytes from memory, or a range of the old file."""

    name: str
    data: Callable[[], bytes] | None = None
    start: int = 0
    length: int = 0
    crc: int | None = None
    old: str = ""
    storage: str = ""


@dataclass(slots=True)
class _Draft:
    pickle: bytes
    decoded: Decoded
    whole: bool
    parts: list[_Part] = field(default_factory=list)
    left_out: int = 0
    kept: set[str] = field(default_factory=set)


class _Pickled:
    """A file of torch.save, in either of its layouts, to the zip layout."""

    def __init__(
        self, source: ByteSource, checkpoint: Checkpoint, edits: Sequence[Edit], archive: Archive | None
    ) -> None:
        self.source = source
        self.checkpoint = checkpoint
        self.edits = edits
        self.legacy = checkpoint.layout is Layout.TORCH_LEGACY
        self.secret = any(isinstance(e, MakePlain) for e in edits)  # nothing of the old pickle may stay
        self.archive = archive
        self.data = self._old_pickle()
        if not checkpoint.little_endian and any(isinstance(e, ComputeTensors) for e in edits):
            raise CannotEdit("it was written on a big-endian machine; nothing is computed from such numbers")
        self.decoded: Decoded = decode(self.data, limits=DEFAULT_LIMITS)
        self.edited: Edited = edit_tree(self.decoded.value, edits, checkpoint.state_dict_path, checkpoint.storages)
        if self.legacy:
            _without_views(self.edited.root)

    def _old_pickle(self) -> bytes:
        if self.archive is not None:
            return self.archive.read(self.archive.find("data.pkl") or "data.pkl", DEFAULT_LIMITS.pickle_bytes) or b""
        head = self.source.read(0, min(self.source.size, DEFAULT_LIMITS.pickle_bytes))
        position = 0
        for _ in range(3):  # magic number, protocol version, system information
            position = decode(head, position, limits=DEFAULT_LIMITS).stream.end or 0
        end = decode(head, position, limits=DEFAULT_LIMITS).stream.end
        return head[position:end]

    def _draft(self) -> _Draft:
        """The new pickle: by its tokens where that does it, else as a whole; decoded again and compared."""
        checkpoint = self.checkpoint
        if not self.legacy and not self.secret:
            data = edit_tokens(
                self.data,
                checkpoint.root,
                self.edits,
                checkpoint.state_dict_path,
                self.edited.moved_metadata,
                self.decoded.stream.opcodes,
            )
            again = None if data is None else self._decoded_again(data)
            if data is not None and again is not None:
                return _Draft(data, again, whole=False)
        self.edited.root = lowered(self.edited.root)
        data = encode(self.edited.root)
        again = self._decoded_again(data)
        if again is None:
            raise CannotEdit(
                "the new pickle does not say what it should; this is a defect of relight, please report it"
            )
        return _Draft(data, again, whole=True)

    def _decoded_again(self, data: bytes) -> Decoded | None:
        """What a new pickle says; None where that is not what it should."""
        again = decode(data, limits=DEFAULT_LIMITS, record="data.pkl")
        good = not again.problems and again.stream.end == len(data) and same_graph(again.value, self.edited.root)
        return again if good else None

    def drafted(self) -> Drafted:
        """The new pickle, and what stays of the records."""
        draft = self._draft()
        self._plan_parts(draft)
        written = self._written(draft, copied=0, rewritten=1, nbytes=0, pairs=[])
        kept = frozenset(p.name for p in draft.parts)
        return Drafted(draft.pickle, draft.decoded, bool(self.edited.storages), kept, written)

    def emit(self, target: Sink, progress: Progress | None) -> Written:
        """The new file, piece by piece; what was done, which does not know its name."""
        draft = self._draft()
        self._plan_parts(draft)
        pairs: list[tuple[str, str]] = []
        sums: list[str] = []
        copied = rewritten = nbytes = 0
        out = ZipOut(target, self.checkpoint.folder or "archive")
        first = self._first_to_share(draft)
        for part in draft.parts:
            if part.name == _ID:
                # It names a content: another content has another, of as many digits as torch's.
                data = str(int(hashlib.sha256("\n".join(sums).encode()).hexdigest(), 16))[:40].zfill(40).encode()
                out.add(part.name, data)
                rewritten += 1
                continue
            if part.data is not None:
                crc = out.add(part.name, part.data())
                rewritten += 1
            else:
                shared = {"block": BLOCK} if part is first else {}
                crc = out.copy(part.name, self.source, part.start, part.length, part.crc, progress, **shared)
                copied, nbytes = copied + 1, nbytes + part.length
                if part.storage:
                    pairs.append((part.name, part.old))
            sums.append(f"{part.name} {crc}")
        out.close()
        return self._written(draft, copied=copied, rewritten=rewritten, nbytes=nbytes, pairs=pairs)

    def _written(
        self, draft: _Draft, *, copied: int, rewritten: int, nbytes: int, pairs: list[tuple[str, str]]
    ) -> Written:
        changes, untouched = self._changes()
        return Written(
            path="",
            digest="",
            changes=tuple(changes),
            copied=copied,
            rewritten=rewritten,
            left_out=draft.left_out,
            bytes_copied=nbytes,
            untouched=untouched,
            changed=self.edited.changed,
            new_storages=tuple(pairs),
            whole=draft.whole,
            pickle=hashlib.sha256(draft.pickle).hexdigest(),
            assumed=tuple(self.edited.assumed),
            dropped=tuple(self.edited.dropped),
            invented=tuple(self.edited.invented),
        )

    def _first_to_share(self, draft: _Draft) -> _Part | None:
        """The first of the storages, where they are large; torch looks up where it is, and computes the others."""
        copied = [p for p in draft.parts if p.storage]
        return copied[0] if sum(p.length for p in copied) >= _SHARED else None

    # ------------------------------------------------------------ records

    def _plan_parts(self, draft: _Draft) -> None:
        checkpoint = self.checkpoint
        # In the order in which loading meets them: the pickle is what is loaded.
        used = [c for known in claims(draft.decoded.persistents).by_key.values() for c in known]
        draft.kept = {c.key for c in used if c.key in checkpoint.storages}
        new = self.edited.storages
        order = [c.key for c in used]
        before = list(checkpoint.storages)
        in_order = order == before and order == [str(i) for i in range(len(order))] and not self.legacy
        parts = draft.parts
        parts.append(_Part("data.pkl", data=lambda: draft.pickle))
        if self.legacy:
            parts.append(_Part("byteorder", data=lambda: b"little" if checkpoint.little_endian else b"big"))
            for key in order:
                parts.append(
                    self._storage(key, checkpoint.storages[key]) if key in checkpoint.storages else self._made(key)
                )
            parts.append(_Part("version", data=lambda: b"3\n"))
            return
        assert self.archive is not None
        pickle_name = self.archive.find("data.pkl") or "data.pkl"
        last = max((i for i, r in enumerate(checkpoint.records) if r.name.startswith("data/")), default=-1)
        for i, record in enumerate(checkpoint.records):
            name = record.name
            stored = name.removeprefix("data/") if name.startswith("data/") else None
            if name == pickle_name:
                pass
            elif name in _FORMAT:
                if in_order:
                    parts.append(self._record(record))
                else:
                    draft.left_out += 1
            elif stored is not None:
                if stored in draft.kept:
                    parts.append(self._storage(stored, checkpoint.storages[stored], record))
                else:
                    draft.left_out += 1
            elif self.secret and name not in ("version", ".data/version", "byteorder", _ID):
                draft.left_out += 1
            else:
                parts.append(self._record(record))
            if i == last:
                parts += [self._made(key) for key in order if key in new]
        if last < 0:
            parts += [self._made(key) for key in order if key in new]

    def _made(self, key: str) -> _Part:
        value = self.edited.storages[key]
        return _Part(f"data/{key}", data=lambda: content(value, self._bytes_of))

    def _bytes_of(self, entry: TensorEntry, first: int, length: int) -> bytes:
        storage = self.checkpoint.storages[entry.storage_id or ""]
        if storage.span is None:
            assert self.archive is not None
            return (self.archive.content(self.archive.records[f"data/{storage.id}"]) or b"")[first : first + length]
        data = self.source.read(storage.span.start + first, length)
        if len(data) != length:
            raise CannotEdit(f"the values of {entry.key} are not all there")
        return data

    def _storage(self, key: str, storage: StorageEntry, record: Record | None = None) -> _Part:
        if record is None:
            assert storage.span is not None
            start, length = storage.span
            return _Part(f"data/{key}", start=start, length=length, old=key, storage=key)
        part = self._record(record)
        part.storage = key
        return part

    def _record(self, record: Record) -> _Part:
        if record.name == _ID:
            return _Part(_ID)
        if record.compressed:
            archive = self.archive
            assert archive is not None
            return _Part(record.name, data=lambda: archive.content(record) or b"")
        start, length = record.span
        return _Part(record.name, start=start, length=length, crc=record.crc32, old=record.name)

    # ------------------------------------------------------------ words

    def _changes(self) -> tuple[list[tuple[str, str]], int]:
        edited = self.edited
        lines = list(words(self.edits, self.checkpoint.root))
        lines += [(path, f"has the same weights: its names follow  ({_tensors(n)})") for path, n in edited.followed]
        lines += [(path, f"{was} -> {becomes}") for path, was, becomes in edited.plain]
        if self.legacy:
            lines.append(("layout", "written as torch has done since 1.6: an archive"))
        gone = {k for e in self.edits if isinstance(e, DropKeys) for k in e.keys}
        whole = [t for t in self.checkpoint.tensors if t.key not in gone]
        made = _turned(self.edits) | {t.key for t in whole if t.layout == "numpy"}
        return lines, len(whole) - len(made & {t.key for t in whole})


def _turned(edits: Sequence[Edit]) -> set[str]:
    """Tensors that others are made of."""
    return {
        s for e in edits if isinstance(e, ConvertTensors) for _, olds, op, _ in e.pairs if op != "copy" for s in olds
    } | {s for e in edits if isinstance(e, ComputeTensors) for t in e.tensors for s in t[1]}


def _without_views(root: Value) -> None:
    """Ids of the old layout have a sixth part, for storages that are views of others; the new layout knows none."""
    for node in nodes(root):
        if isinstance(node, Persistent) and isinstance(node.pid, tuple) and len(node.pid) == 6:
            if node.pid[5] is not None:
                raise CannotEdit("a storage is a view of another, as torch before 0.4 wrote them")
            node.pid = node.pid[:5]


# ---------------------------------------------------------------- safetensors


class _Safetensors:
    """A new header in front of the same bytes."""

    def __init__(self, source: LocalSource, checkpoint: Checkpoint, edits: Sequence[Edit]) -> None:
        self.source = source
        self.checkpoint = checkpoint
        self.edits = edits

    def emit(self, target: Sink, progress: Progress | None) -> Written:
        """The new file, piece by piece; what was done, which does not know its name."""
        length = struct.unpack("<Q", self.source.read(0, 8))[0]
        header: dict[str, dict[str, object]] = json.loads(self.source.read(8, length))
        rename: dict[str, str] = {}
        drop: set[str] = set()
        for edit in self.edits:
            if isinstance(edit, RenameKeys):
                rename.update(edit.pairs)
            elif isinstance(edit, DropKeys):
                drop.update(edit.keys)
        absent = sorted((rename.keys() | drop) - header.keys() | ({"__metadata__"} & (rename.keys() | drop)))
        if absent:
            raise CannotEdit(f"there is no tensor {absent[0]} in it")
        new: dict[str, dict[str, object]] = {}
        runs: list[tuple[int, int]] = []
        at = 0
        # The format wants tensors without gaps: those behind one that is left out move up.
        for key, entry in sorted(header.items(), key=lambda item: _offsets(item)):
            if key in drop:
                continue
            name = rename.get(key, key)
            if name in new:
                raise CannotEdit(f"two tensors would be called {name}")
            if key == "__metadata__":
                new[name] = entry
                continue
            begin, end = _offsets((key, entry))
            new[name] = {**entry, "data_offsets": [at, at + end - begin]}
            at += end - begin
            if runs and runs[-1][1] == begin:
                runs[-1] = (runs[-1][0], end)
            elif end > begin:
                runs.append((begin, end))
        raw = json.dumps(new, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        target.write(struct.pack("<Q", len(raw)) + raw, 0)
        position = 8 + len(raw)
        for begin, end in runs:
            target.copy(self.source, 8 + length + begin, end - begin, position, progress)
            position += end - begin
        target.end(position)
        count = len(new) - ("__metadata__" in new)
        return Written(
            path="",
            digest="",
            changes=tuple(words(self.edits)),
            copied=count,
            rewritten=1,
            left_out=len(drop),
            bytes_copied=at,
            untouched=count,
            new_storages=tuple((rename.get(k, k), k) for k in header if k not in drop and k != "__metadata__"),
            dropped=((_some(sorted(drop)), f"left out ({_tensors(len(drop))})"),) if drop else (),
        )


def _offsets(item: tuple[str, Mapping[str, object]]) -> tuple[int, int]:
    offsets = item[1].get("data_offsets")
    return (-1, -1) if not isinstance(offsets, list) else (offsets[0], offsets[1])


# ---------------------------------------------------------------- words


def words(edits: Sequence[Edit], root: Value = None) -> Iterator[tuple[str, str]]:
    """What edits change, a line each: (what, how).

    Args:
        edits: They have not been applied to ``root``.
        root: What they change, for what stood there before; None where that is not at hand.
    """
    loops = [e for e in edits if isinstance(e, (SetEntry, MoveEntry, DropEntry)) and _place(e)[:1] == ("loops",)]
    if loops:
        yield ("loops", _loops(loops, "set" if _standing(root, ("loops",)) is not None else "added"))
    for edit in edits:
        if edit in loops:
            continue
        if isinstance(edit, RenameKeys):
            groups: dict[tuple[str, str], int] = {}
            for old, new in (pair for pair in edit.pairs if pair[0] != pair[1]):
                names = ends_cut(old, new)
                groups[names] = groups.get(names, 0) + 1
            for (old, new), members in folded_pairs(groups).items():
                count = sum(groups[m] for m in members)
                yield (old or "the names", f"-> {new or 'without it'}  ({_tensors(count)})")
        elif isinstance(edit, DropKeys) and edit.keys:
            yield (_some(edit.keys), f"left out ({_tensors(len(edit.keys))})")
        elif isinstance(edit, AddNames):
            for old, new in edit.pairs[:5]:
                yield (new, f"added: the same tensor as {old}")
            if len(edit.pairs) > 5:
                yield ("...", f"{len(edit.pairs) - 5} more second names")
        elif isinstance(edit, ConvertTensors):
            for new, sources, op, _ in edit.pairs[:5]:
                yield (new, f"from {', '.join(sources)}" + ("" if op == "copy" else f" by {op}"))
            if len(edit.pairs) > 5:
                yield ("...", f"{len(edit.pairs) - 5} more tensors")
        elif isinstance(edit, ComputeTensors):
            for new, sources, how, shape, _ in edit.tensors[:5]:
                of = f" from {', '.join(sources)}" if sources and sources != (new,) else ""
                yield (new, f"{_HOW.get(how.partition(':')[0], how)}{of}, {list(shape)}")
            if len(edit.tensors) > 5:
                yield ("...", f"{len(edit.tensors) - 5} more tensors")
        elif isinstance(edit, WrapEntry):
            yield (
                ".".join(edit.path),
                f"-> {'.'.join((*edit.path, edit.key))}"
                + (", with its values as attributes" if edit.attributes else ""),
            )
        elif isinstance(edit, SetEntry):
            was = _standing(root, edit.path)
            number = type(was) in (int, float, str, bool) and not isinstance(edit.value, (list, dict))
            new = json.dumps(edit.value)[:60]
            yield (".".join(edit.path), f"{json.dumps(was)[:60]} -> {new}" if number else f"set to {new}")
        elif isinstance(edit, DropEntry):
            yield (".".join(edit.path), "left out")
        elif isinstance(edit, MoveEntry):
            yield (".".join(edit.old) or "the whole", f"-> {'.'.join(edit.new)}")
        elif isinstance(edit, ReplaceGlobal):
            yield (edit.old, f"-> {edit.new}")
        elif isinstance(edit, ArrangeOptimizer):
            count = sum(len(g) for g in edit.groups)
            fresh = sum(not sources for g in edit.groups for sources, _, _ in g)
            text = f"{count - fresh} states go with their parameters"
            yield (
                f"optimizer_states[{edit.optimizer}]",
                text + (f"; {_parameters(fresh)} without one" if fresh else ""),
            )
        elif isinstance(edit, OrderKeys):
            yield ("the tensors", "in the order in which the model has them")
        elif isinstance(edit, SetDevice):
            yield ("device", f"-> {edit.device}")


def _place(edit: SetEntry | MoveEntry | DropEntry) -> tuple[str, ...]:
    return edit.old if isinstance(edit, MoveEntry) else edit.path


def _standing(root: Value, path: Sequence[str]) -> Value:
    for step in path:
        listed = isinstance(root, ListNode) and step.isdecimal() and int(step) < len(root.items)
        root = root.items[int(step)] if listed and isinstance(root, ListNode) else mapping_get(root, step)
    return root


def _loops(edits: Sequence[SetEntry | MoveEntry | DropEntry], verb: str) -> str:
    """What becomes of the counters of a training, in one line: one by one they mean nothing to people."""
    moved = sum(isinstance(e, MoveEntry) for e in edits)
    out = [f"{moved} of their names are those of the version that reads them"] if moved else []
    for edit in edits:
        if not isinstance(edit, SetEntry):
            continue
        state = edit.value.get("fit_loop", edit.value) if isinstance(edit.value, dict) else None
        progress = state.get("epoch_progress") if isinstance(state, dict) else None
        current = progress.get("current") if isinstance(progress, dict) else None
        epochs = current.get("completed") if isinstance(current, dict) else None
        if isinstance(epochs, int):
            out.append(f"{verb}: {counted(epochs, 'epoch')} finished")
        elif edit.path[-1] == "completed":
            out.append(
                f"{edit.value} steps, where {'manual' if 'manual' in edit.path[2] else 'automatic'} optimization counts"
            )
    return "; ".join(dict.fromkeys(out)) or "changed"


_HOW = {
    "rows": "resized",
    "grid": "interpolated",
    "uniform": "drawn anew",
    "fold": "computed",
    "norm": "computed",
    "cast": "converted",
    "value": "added, as the model makes it",
}


def _parameters(count: int) -> str:
    return f"{count} parameter starts" if count == 1 else f"{count} parameters start"


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'s' if count != 1 else ''}"

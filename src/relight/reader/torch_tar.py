"""Files of torch before 0.1.10: a tar archive of ``sys_info``, ``pickle``, ``storages`` and ``tensors``.

The pickle refers to tensors and storages by number. ``storages`` gives each its bytes (and lists views on others),
``tensors`` says which part of which storage each tensor is.

Source: ``legacy_load`` in ``torch/serialization.py`` of torch 2.13, which still reads them, with weights_only=False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, Record, Span, StorageEntry
from relight.core.dtypes import BY_NAME, BY_STORAGE
from relight.core.objects import Call, Global, ListNode, Opaque, Persistent, Value, mapping_get
from relight.reader.assemble import Storages, assemble, unusable
from relight.reader.limits import Limits
from relight.reader.nested import Finder
from relight.reader.pickle_vm import decode
from relight.reader.source import ByteSource
from relight.reader.tar_member import Member

_MEMBERS = frozenset({"sys_info", "pickle", "storages", "tensors"})
PICKLES = _MEMBERS - {"storages"}


def is_torch(found: Mapping[str, Record]) -> bool:
    """Whether these are the members that old torch wrote."""
    return set(found) >= _MEMBERS


@dataclass(slots=True)
class _Numbered:
    """What the numbers in the pickle stand for."""

    storages: Storages = field(default_factory=Storages)
    classes: dict[str, Global] = field(default_factory=dict)
    views: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # id: (storage, offset, elements)
    tensors: dict[str, Call] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def resolve(self, pid: Value) -> Value | None:
        """A tensor by its number; the class that a ``(class, file, source)`` id names; None for a storage."""
        if isinstance(pid, tuple):
            return pid[0] if len(pid) == 3 and isinstance(pid[0], Global) else None
        name = pid.decode("latin-1") if isinstance(pid, bytes) else pid if isinstance(pid, (int, str)) else ""
        key = str(name)
        if key not in self.tensors and key not in self.views and key not in self.storages.entries:
            self.unknown.add(key)
        return self.tensors.get(key)


def read(source: ByteSource, found: Mapping[str, Record], limits: Limits) -> Checkpoint:
    """The pickle refers to tensors by number; the other members say what those are."""
    finder = Finder(limits)
    records = tuple(found.values())
    info = decode(_bytes(source, found["sys_info"], limits), limits=limits, record="sys_info")
    finder.inside(info, "sys_info")
    order = ">" if mapping_get(info.value, "little_endian") is False else "<"
    numbered = _Numbered()
    problems = numbered.storages.problems
    storages = Member(source, found["storages"], order, limits, finder)
    _storages(storages, numbered)
    tensors = Member(source, found["tensors"], order, limits, finder)
    _tensors(tensors, numbered)
    problems += storages.problems + tensors.problems
    data = _bytes(source, found["pickle"], limits)
    body = decode(data, limits=limits, record="pickle", resolve=numbered.resolve)
    finder.inside(body, "pickle")
    pickles = (info.pickled("sys_info"), storages.pickled(), tensors.pickled(), *finder.collect())
    if body.stream.end is None:
        problems = [*body.problems, *problems]
        return unusable(source, Layout.TORCH_TAR, problems, body, records=records, pickles=pickles)
    if numbered.unknown and not storages.problems and not tensors.problems:
        message = f"the pickle refers to {len(numbered.unknown):,} tensors that no other member describes"
        problems.append(Problem(kind=ProblemKind.RECORD_MISSING, message=message, fatal=True, record="tensors"))
    return assemble(
        source,
        Layout.TORCH_TAR,
        body,
        numbered.storages,
        problems=list(body.problems),
        limits=limits,
        records=records,
        pickles=pickles,
        little_endian=order == "<",
    )


def _bytes(source: ByteSource, record: Record, limits: Limits) -> bytes:
    return source.read(record.span.start, min(record.size, limits.pickle_bytes))


def _storages(member: Member, out: _Numbered) -> None:
    """A count, then for each storage a pickle ``(key, location, class)``, an element count and the bytes; then views."""
    for _ in range(member.count()):
        part = member.pickle()
        if part is None:
            return
        claimed = _claimed(part.value)
        if claimed is None:
            member.nonsense("a storage is not described as torch describes one")
            return
        key, dtype, device, kind = claimed
        numbers = member.numbers(1)
        if numbers is None:
            return
        nbytes = numbers[0] * BY_NAME[dtype].itemsize
        start = member.record.span.start + member.position
        whole = 0 <= nbytes <= member.left
        span = Span(start, nbytes) if whole else None
        out.classes[key] = kind
        out.storages.entries[key] = StorageEntry(key, dtype, device, max(numbers[0], 0), max(nbytes, 0), span)
        if not whole:
            out.storages.missing[key] = "the file ends inside its storage"
            member.problem(f"storage {key} has {nbytes:,} bytes, {member.left:,} are left")
            return
        member.position += nbytes
    part = None if member.problems else member.pickle()
    if part is None:
        return
    views = part.value.items if isinstance(part.value, ListNode) else ()
    for view in views:
        if not isinstance(view, tuple) or len(view) != 4 or not all(type(n) is int and n >= 0 for n in view):
            member.nonsense("a view on a storage is not described as torch describes one")
            return
        target, root, offset, numel = view
        assert isinstance(offset, int)
        assert isinstance(numel, int)
        out.views[str(target)] = (str(root), offset, numel)


def _claimed(value: Value) -> tuple[str, str, str, Global] | None:
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(value[2], Global):
        return None
    key, device, kind = value
    if isinstance(device, bytes):  # text of Python 2
        device = device.decode("latin-1")
    dtype = BY_STORAGE.get(kind.name) if isinstance(kind, Global) else None
    if dtype is None or not isinstance(kind, Global) or not isinstance(device, str) or not isinstance(key, (int, str)):
        return None
    return str(key), dtype.name, device, kind


def _tensors(member: Member, out: _Numbered) -> None:
    """A count, then for each tensor a pickle ``(key, storage, class)``, its rank, sizes, strides and offset."""
    for _ in range(member.count()):
        part = member.pickle()
        if part is None:
            return
        if not isinstance(part.value, tuple) or len(part.value) != 3 or not isinstance(part.value[0], (int, str)):
            member.nonsense("a tensor is not described as torch describes one")
            return
        key, storage = str(part.value[0]), part.value[1]
        rank = member.numbers(1)
        if rank is None:
            return
        ndim = rank[0] & 0xFFFFFFFF if member.order == "<" else rank[0] >> 32  # torch reads four bytes and skips four
        if ndim > member.limits.rank:
            member.limit(f"a tensor has {ndim:,} dimensions", "rank")
            return
        numbers = member.numbers(2 * ndim + 1)
        if numbers is None:
            return
        out.tensors[key] = _call(out, storage, numbers[:ndim], numbers[ndim:-1], numbers[-1])


_REBUILD = Global("torch._utils", "_rebuild_tensor", 0)


def _call(out: _Numbered, storage: Value, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Call:
    """A tensor as the next layout of torch would have pickled it, so that everything else knows it."""
    key = str(storage)
    reach = None
    if key in out.views:
        key, start, reach = out.views[key]
        offset += start
        reach += start
    entry = out.storages.entries.get(key)
    source: Value
    if entry is None:
        source = Opaque("no storage", 0)
    elif reach is not None and reach > entry.numel:
        source = Opaque("a view that reaches beyond its storage", 0)
    else:
        source = Persistent(("storage", out.classes[key], key, entry.device, entry.numel), 0)
    return Call(_REBUILD, (source, offset, size, stride), "reduce", 0)

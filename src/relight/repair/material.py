"""What a new file is made of: a tree of pickled values, and where the bytes of its storages are.

Whatever the layout of the source, this is what it becomes first; the writers know nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError
from relight.core.objects import Call, Global, ObjectPath, Persistent, Value, mapping_get, mapping_pairs, nodes
from relight.facts.repairable import HARMLESS
from relight.reader import DEFAULT_LIMITS, open_checkpoint
from relight.reader.assemble import claims, find_state_dict
from relight.reader.tensors import TensorReader
from relight.reader.values import is_contiguous
from relight.repair.pickle_out import name_node
from relight.repair.stored import FileRange, Files, Inflated, Made, Pieces, Run, Stored
from relight.repair.tensor_values import content, strides, view_of

SINGLE = frozenset({Layout.TORCH_ZIP, Layout.TORCH_LEGACY, Layout.TORCH_TAR, Layout.SAFETENSORS})


@dataclass(slots=True)
class Material:
    """What a new file is made of.

    Attributes:
        origin: What was read, as given.
        layout: Its layout.
        nbytes: Its size.
        root: The tree; it may be changed.
        storages: Their bytes, by the keys that the tree gives them.
        tensors: Of the state_dict, those whose values are plainly there: their storages are among these.
        state_dict: Where they are in the tree; None where it has no state_dict.
        like: A file whose permissions the new one gets.
        files: Where the bytes are.
        little_endian: Byte order of the values.
        changes: What is not as it was: (what, how).
        left_out: What does not become part of the new file: (what, why).
        unplain: Tensors of the state_dict that are more than a run of values: (key, why).
    """

    origin: str
    layout: Layout
    nbytes: int
    root: Value
    storages: dict[str, Stored]
    tensors: tuple[TensorEntry, ...]
    state_dict: ObjectPath | None
    like: str
    files: Files
    little_endian: bool = True
    changes: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unplain: list[tuple[str, str]] = field(default_factory=list)


def tensor_node(entry: TensorEntry, key: str, numel: int, *, device: str = "cpu") -> Call:
    """A tensor as torch pickles it.

    Args:
        entry: Type, sizes, strides and offset.
        key: Of its storage.
        numel: Elements of the storage.
        device: Where it says that it comes from.
    """
    dtype = BY_NAME[entry.dtype]
    hooks = Call(name_node("collections.OrderedDict"), (), "reduce", 0)
    if dtype.storage is not None:
        pid = ("storage", name_node(f"torch.{dtype.storage}"), key, device, numel)
        arguments = (Persistent(pid, 0), entry.offset, entry.shape, entry.stride, False, hooks)
        return Call(name_node("torch._utils._rebuild_tensor_v2"), arguments, "reduce", 0)
    # Types that have no storage class of their own lie on untyped storages, which are counted in bytes.
    pid = ("storage", name_node("torch.storage.UntypedStorage"), key, device, numel * dtype.itemsize)
    kind = name_node(f"torch.{dtype.name}")
    typed = (Persistent(pid, 0), entry.offset, entry.shape, entry.stride, False, hooks, kind)
    return Call(name_node("torch._utils._rebuild_tensor_v3"), typed, "reduce", 0)


def ordered(pairs: Iterable[tuple[Value, Value]]) -> Call:
    """An OrderedDict, as state_dicts are."""
    out = Call(name_node("collections.OrderedDict"), (), "reduce", 0)
    out.pairs = list(pairs)
    return out


def contiguous(key: str, dtype: str, shape: tuple[int, ...]) -> TensorEntry:
    """A tensor that has a storage to itself, of the same name."""
    return TensorEntry(key, dtype, shape, strides(shape), 0, key, "cpu", ObjectPath((key,)))


def elements(entry: TensorEntry, storage: Stored) -> Stored:
    """The bytes of a tensor's elements, one after the other.

    Args:
        entry: The tensor.
        storage: What it lies on.
    """
    size = BY_NAME[entry.dtype].itemsize
    nbytes = entry.numel * size
    if is_contiguous(entry):
        if entry.offset == 0 and nbytes == storage.nbytes:
            return storage
        if isinstance(storage, FileRange):
            return storage.part(entry.offset * size, nbytes)
        run = Run(storage, entry.offset * size, nbytes)
        return Pieces(nbytes, lambda: (run,))

    def read(of: TensorEntry, first: int, length: int) -> bytes:
        del of
        return b"".join(Pieces(length, lambda: (Run(storage, first, length),)).chunks())

    return Made(nbytes, lambda: content(view_of(entry), read))


def sound(checkpoint: Checkpoint, path: str) -> None:
    """Refuse what a copy would hide.

    Raises:
        RepairError: The checkpoint is damaged or incomplete; everything that is missing is named.
    """
    bad = [p for p in checkpoint.problems if not expected(p)]
    if not bad and checkpoint.readable and not checkpoint.lost:
        return
    what = [f"{p.record}: {p.message}" if p.record else p.message for p in bad]
    what += [f"{t.key}: {checkpoint.refused.get(t.key, 'its values are not all there')}" for t in checkpoint.lost]
    if not what:
        what = ["it holds no objects that a checkpoint would"]
    shown = what if len(what) <= 8 else [*what[:7], f"and {len(what) - 7:,} more"]
    can = checkpoint.layout in SINGLE or checkpoint.layout in (Layout.SHARDED, Layout.DCP)
    more = ". --salvage writes what is intact" if can and checkpoint.tensors else ""
    raise RepairError(path, "nothing is written, it is not whole: " + "; ".join(shown) + more)


def expected(problem: Problem) -> bool:
    """Whether a problem is none for a copy: that a folder is a folder, for one."""
    return problem.kind in HARMLESS or (
        problem.kind is ProblemKind.UNSUPPORTED and problem.what in ("dcp", "deepspeed", "sharded-index", "hf-pieces")
    )


def of_file(path: str, files: Files, checkpoint: Checkpoint | None = None) -> Material:
    """What a single file is made of.

    Raises:
        RepairError: It is damaged, or of a layout that holds more or other things than a checkpoint.
    """
    checkpoint = open_checkpoint(path) if checkpoint is None else checkpoint
    if checkpoint.layout not in SINGLE:
        first = checkpoint.problems[0].message if checkpoint.problems else f"its layout is {checkpoint.layout.value}"
        raise RepairError(path, first)
    sound(checkpoint, path)
    return whole_file(path, files, checkpoint)


def whole_file(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    """The same for a file that is known to be sound, or whose damage is no secret."""
    records = {r.name: r for r in checkpoint.records} if checkpoint.layout is Layout.TORCH_ZIP else {}
    storages: dict[str, Stored] = {}
    for key, storage in checkpoint.storages.items():
        record = records.get(f"data/{key}")
        if storage.span is not None:
            crc = record.crc32 if record is not None and record.size == storage.nbytes else None
            storages[key] = FileRange(files, path, storage.span.start, storage.nbytes, crc)
        elif record is not None and record.compressed:
            storages[key] = Inflated(files, path, record.span.start, record.span.length, record.size, record.crc32)
    root = checkpoint.root
    state_dict = checkpoint.state_dict_path
    if checkpoint.layout is Layout.SAFETENSORS:
        root = ordered((t.key, tensor_node(t, t.key, t.numel)) for t in checkpoint.tensors)
        state_dict = ObjectPath()
    elif checkpoint.layout is Layout.TORCH_LEGACY:
        without_views(root)
    odd = unplain(checkpoint.tensors, root, state_dict) if checkpoint.layout is not Layout.SAFETENSORS else {}
    plain = tuple(t for t in checkpoint.tensors if t.key not in odd and t.storage_id in storages)
    out = Material(
        origin=path,
        layout=checkpoint.layout,
        nbytes=checkpoint.nbytes,
        root=root,
        storages=storages,
        tensors=plain,
        state_dict=state_dict,
        like=path,
        files=files,
        little_endian=checkpoint.little_endian,
    )
    if checkpoint.stream is not None and checkpoint.stream.protocol != 2:
        out.changes.append(("pickle", f"protocol {checkpoint.stream.protocol} -> 2"))
    deflated = sum(r.compressed for r in checkpoint.records)
    if deflated:
        out.changes.append(("records", f"{deflated:,} compressed -> stored"))
    out.unplain = list(odd.items())
    return out


_OWN = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.Parameter", "torch._tensor.Tensor")


def unplain(tensors: Iterable[TensorEntry], root: Value, state_dict: ObjectPath | None) -> dict[str, str]:
    """Tensors of a state_dict that are more, or other, than a run of values: why, by key."""
    value = root
    for step in state_dict or ():
        value = mapping_get(value, str(step))
    values = {k: v for k, v in mapping_pairs(value) or () if isinstance(k, str)}
    out: dict[str, str] = {}
    for t in tensors:
        if t.layout not in ("strided", "subclass"):
            out[t.key] = f"a {t.layout} tensor is more than a run of values"
        elif t.storage_id is None or t.dtype not in BY_NAME:
            out[t.key] = "its values are not plainly there"
        else:
            reason = _odd(values.get(t.key))
            if reason is not None:
                out[t.key] = reason
    return out


def _odd(value: Value) -> str | None:
    """Why the values of a tensor are not those of its storage."""
    while isinstance(value, Call):
        name, args = value.name.rpartition(".")[2], value.args
        if name in ("_rebuild_from_type_v2", "_rebuild_from_type") and len(args) == 4:
            if not isinstance(args[1], Global) or args[1].full_name not in _OWN:
                return "a tensor of another class"
            inner = args[2]
            if not isinstance(args[0], Global) or not isinstance(inner, tuple):
                return "a tensor of another class"
            value = Call(args[0], inner, "reduce", 0)
        elif name in ("_rebuild_parameter", "_rebuild_parameter_with_state") and args:
            value = args[0]
        else:
            bits = args[6] if name == "_rebuild_tensor_v2" and len(args) > 6 else None
            bits = args[7] if name == "_rebuild_tensor_v3" and len(args) > 7 else bits
            # Source: set_tensor_metadata in torch/_utils.py: the values are conjugated or negated when they are read.
            return "its values are stored conjugated or negated" if mapping_pairs(bits) else None
    return None


def described(material: Material) -> Material:
    """Find the state_dict of a tree, and the tensors of it whose values are plainly there."""
    found = claims(n for n in nodes(material.root) if isinstance(n, Persistent)).by_key
    entries = {
        key: StorageEntry(key, c[0].dtype, c[0].device, c[0].numel, c[0].nbytes, None) for key, c in found.items()
    }
    path, tensors, refused, _, _ = find_state_dict(material.root, TensorReader(entries), DEFAULT_LIMITS)
    if refused:
        key, refusal = next(iter(refused.items()))
        raise RepairError(material.origin, f"{key}: {refusal.reason}")
    material.state_dict = path
    odd = unplain(tensors, material.root, path)
    material.unplain = list(odd.items())
    material.tensors = tuple(t for t in tensors if t.key not in odd and t.storage_id in material.storages)
    return material


def without_views(root: Value) -> None:
    """Storages that are views of others, which only the layout before 1.6 has, as places within those others.

    Source: ``persistent_load`` in ``_legacy_load``, torch/serialization.py of torch 2.13: the tensor lies on the view.

    Raises:
        RepairError: A view is used by something that is no tensor.
    """
    for node in list(nodes(root)):
        if not isinstance(node, Call) or not node.args or not isinstance(node.args[0], Persistent):
            continue
        storage = node.args[0]
        pid = storage.pid
        if isinstance(pid, tuple) and len(pid) == 6:
            view = pid[5]
            if isinstance(view, tuple) and len(view) == 3 and isinstance(view[1], int):
                offset = node.args[1] if len(node.args) > 1 else None
                if not isinstance(offset, int) or isinstance(offset, bool):
                    raise RepairError("", "a storage is a view of another, and no tensor lies on it")
                node.args = (storage, offset + view[1], *node.args[2:])
    for node in nodes(root):
        if isinstance(node, Persistent) and isinstance(node.pid, tuple) and len(node.pid) == 6:
            node.pid = node.pid[:5]


def size_of(path: str) -> int:
    """Bytes of a file, or of all files of a folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, n)) for folder, _, names in os.walk(path) for n in names)

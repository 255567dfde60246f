"""Edits on a tree of pickled values, in place: the tree is one's own, read once more for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relight.core.checkpoint import StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME
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
    Plain,
    RenameKeys,
    ReplaceGlobal,
    SetDevice,
    SetEntry,
    WrapEntry,
)
from relight.core.objects import Call, DictNode, Global, ListNode, ObjectPath, Persistent, Value, mapping_pairs, nodes
from relight.facts import plain_data
from relight.reader.tensors import REBUILD_NAMES, TensorReader
from relight.repair.computing import Computed, Held, computed
from relight.repair.pickle_out import name_node
from relight.repair.tensor_values import Joined, View, converted, first_entry, strides


class CannotEdit(ValueError):
    """An edit that does not fit the file."""


@dataclass(slots=True)
class Edited:
    """What editing a tree gave.

    Attributes:
        root: The tree.
        storages: Storages that are written anew: key to what they hold.
        changed: Tensors that were turned, cut or put together.
        plain: What became plain data: (where, what it was, what it is now).
        moved_metadata: Module paths that ``_metadata`` has under another name now.
        followed: (where, how many) of further sets of the same weights whose names follow: averaged ones, and the like.
        assumed: (what, how) of changes after which code may take another path.
        dropped: (what, how) of what is not there any more.
        invented: (what, how) of values that were not there.
    """

    root: Value
    storages: dict[str, Joined | Computed | Held] = field(default_factory=dict)
    changed: int = 0
    plain: list[tuple[str, str, str]] = field(default_factory=list)
    moved_metadata: dict[str, str] = field(default_factory=dict)
    followed: list[tuple[str, int]] = field(default_factory=list)
    assumed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    invented: list[tuple[str, str]] = field(default_factory=list)


def edit_tree(
    root: Value, edits: Sequence[Edit], state_dict: ObjectPath | None, storages: Mapping[str, StorageEntry]
) -> Edited:
    """Apply the edits of a plan to a tree.

    Args:
        root: The tree; it is changed.
        edits: All of them name things as the tree has them.
        state_dict: Where the tensors are.
        storages: Of the file, by key.

    Raises:
        CannotEdit: An edit names something that the tree does not have, or two edits contradict each other.
    """
    out = Edited(root)
    keys = [e for e in edits if isinstance(e, (RenameKeys, DropKeys, AddNames, ConvertTensors, ComputeTensors))]
    if keys:
        _edit_keys(root, keys, state_dict, storages, out)
    for edit in edits:
        if isinstance(edit, OrderKeys):
            _order_keys(root, edit, state_dict)
    for edit in edits:
        if isinstance(edit, SetEntry):
            if edit.path[-1:] in (("optimizer_states",), ("lr_schedulers",), ("callbacks",)) and edit.value in ([], {}):
                out.dropped.append((".".join(edit.path), "left out"))
            _set_entry(out.root, edit)
        elif isinstance(edit, DropEntry):
            _drop_entry(out.root, edit)
            out.dropped.append((".".join(edit.path), "left out"))
        elif isinstance(edit, WrapEntry):
            _wrap_entry(out.root, edit)
        elif isinstance(edit, MoveEntry):
            out.root = _move_entry(out, edit)
        elif isinstance(edit, ReplaceGlobal):
            _replace_global(out.root, edit)
        elif isinstance(edit, SetDevice):
            for node in nodes(out.root):
                if isinstance(node, Persistent) and isinstance(node.pid, tuple) and len(node.pid) in (5, 6):
                    node.pid = (*node.pid[:3], edit.device, *node.pid[4:])
        elif isinstance(edit, ArrangeOptimizer):
            # What it knows of optimizers and models is not loaded for a change of names.
            from relight.repair.optimizer_edit import Misfit, arrange

            try:
                left = arrange(out.root, edit, lambda wanted, values: _converted(wanted, values, storages, out))
                if left:
                    what = "the state of a parameter" if left == 1 else f"the states of {left} parameters"
                    out.dropped.append((f"optimizer_states[{edit.optimizer}]", f"{what} that it does not have"))
            except Misfit as error:
                raise CannotEdit(str(error)) from None
        elif isinstance(edit, MakePlain):
            _make_plain(out, edit, storages)
    return out


# ---------------------------------------------------------------- keys


def _edit_keys(
    root: Value,
    edits: Iterable[RenameKeys | DropKeys | AddNames | ConvertTensors | ComputeTensors],
    path: ObjectPath | None,
    storages: Mapping[str, StorageEntry],
    out: Edited,
) -> None:
    holder = _mapping_at(root, path)
    pairs = _own_pairs(holder)
    values = {k: v for k, v in pairs if isinstance(k, str)}
    rename: dict[str, str] = {}
    drop: set[str] = set()
    add: list[tuple[str, str]] = []
    convert: dict[str, tuple[tuple[str, ...], str, tuple[int, ...]]] = {}
    copies: dict[str, list[str]] = {}
    compute: dict[str, tuple[str, tuple[str, ...], str, tuple[int, ...], str]] = {}
    for edit in edits:
        if isinstance(edit, RenameKeys):
            _merge(rename, edit.pairs)
        elif isinstance(edit, DropKeys):
            drop.update(edit.keys)
        elif isinstance(edit, AddNames):
            add += edit.pairs
        elif isinstance(edit, ComputeTensors):
            for tensor in edit.tensors:
                if compute.setdefault(tensor[0], tensor) != tensor:
                    raise CannotEdit(f"two tensors would be called {tensor[0]}")
        else:
            for new, sources, op, shape in edit.pairs:
                if op == "copy" and len(sources) == 1:
                    copies.setdefault(sources[0], []).append(new)
                else:
                    convert[new] = (sources, op, shape)
    for old, news in copies.items():
        first = old if old in news else news[0]
        _merge(rename, [(old, first)])
        add += [(old, new) for new in news if new != first]
    origins = {n: s for n, (s, _, _) in convert.items()} | {n: t[1] for n, t in compute.items()}
    wanted = {*rename, *drop, *(o for o, _ in add), *(s for sources in origins.values() for s in sources)}
    absent = sorted(wanted - values.keys())
    if absent:
        raise CannotEdit(f"there is no tensor {absent[0]} in it")
    both = drop & rename.keys()
    if both:
        raise CannotEdit(f"{min(both)} is to be renamed and to be left out")
    consumed = {s for sources in origins.values() for s in sources} - rename.keys()
    made = _converted(convert, values, storages, out)
    made |= _computed(compute, values, storages, out)
    after: list[tuple[Value, Value]] = []
    placed: set[str] = set()
    for key, value in pairs:
        if not isinstance(key, str):
            after.append((key, value))
            continue
        if key in drop:
            if key in compute and key not in placed:  # another tensor of this name, in its place
                placed.add(key)
                after.append((key, made[key]))
            continue
        if key in consumed:
            # What is made of it stands where its first part stood.
            here = [n for n, sources in origins.items() if sources[:1] == (key,) and n not in placed]
            placed.update(here)
            after += [(n, made[n]) for n in here]
            continue
        after.append((rename.get(key, key), value))
    after += [(n, made[n]) for n in origins if n not in placed]
    after += [(new, values[old]) for old, new in add]
    names = [k for k, _ in after if isinstance(k, str)]
    if len(set(names)) != len(names):
        double = next(k for k in names if names.count(k) > 1)
        raise CannotEdit(f"two tensors would be called {double}")
    pairs[:] = after
    out.changed += len(made)
    _note_computed(compute.values(), values, storages, out)
    _note_lost(drop, convert, values, {k for k, _ in after if isinstance(k, str)}, dict(after), storages, out)
    if isinstance(holder, Call) and rename:
        out.moved_metadata = _rename_metadata(holder, rename)
    if rename:
        _rename_copies(root, holder, rename, values, storages, out)


def _order_keys(root: Value, edit: OrderKeys, path: ObjectPath | None) -> None:
    pairs = _own_pairs(_mapping_at(root, path))
    rank = {key: i for i, key in enumerate(edit.keys)}
    # A key that a pickle sets twice stays in the same order: Python keeps what is last.
    places = [i for i, (key, _) in enumerate(pairs) if isinstance(key, str) and key in rank]
    ordered = sorted((pairs[i] for i in places), key=lambda pair: rank[str(pair[0])])
    for i, pair in zip(places, ordered, strict=True):
        pairs[i] = pair


def _rename_copies(
    root: Value,
    holder: Value,
    rename: Mapping[str, str],
    values: Mapping[str, Value],
    storages: Mapping[str, StorageEntry],
    out: Edited,
) -> None:
    """Averaged weights and other sets of the same names follow: whoever resumes puts them into the same model.

    Only a dict that has every one of the old names (all of them behind one prefix, as AveragedModel's ``module.``), each
    a tensor of the same shape, and none of the new ones.
    """
    changed = {old: new for old, new in rename.items() if old != new}
    if not changed:
        return
    reader = TensorReader(storages)

    def shape(value: Value, key: str) -> tuple[int, ...] | None:
        entry = reader.read(value, key, ObjectPath((key,))) if isinstance(value, Call) else None
        return entry.shape if isinstance(entry, TensorEntry) else None

    wanted = {old: shape(values[old], old) for old in changed}
    first = next(iter(changed))
    for path, value in _mappings(root):
        pairs = mapping_pairs(value) or []
        if value is holder or len(pairs) < len(changed):
            continue
        held = {k: v for k, v in pairs if isinstance(k, str)}
        prefix = next((p for p in ("", "module.", "_orig_mod.") if p + first in held), None)
        if prefix is None or any(prefix + new in held and new not in changed for new in changed.values()):
            continue
        if any(shapes is None or shape(held.get(prefix + old), old) != shapes for old, shapes in wanted.items()):
            continue
        own = _own_pairs(value)
        table = {prefix + old: prefix + new for old, new in changed.items()}
        own[:] = [(table.get(k, k) if isinstance(k, str) else k, v) for k, v in own]
        if isinstance(value, Call):
            _rename_metadata(value, table)
        out.followed.append((str(path), len(changed)))


def _mappings(root: Value) -> Iterator[tuple[ObjectPath, Value]]:
    """Dicts with text keys, and where they are, in file order; a shared one once, tensors not gone into."""
    stack: list[tuple[Value, ObjectPath]] = [(root, ObjectPath())]
    seen: set[int] = set()
    while stack:
        value, path = stack.pop()
        if not isinstance(value, _CONTAINERS) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Call) and value.name in REBUILD_NAMES:
            continue
        below: list[tuple[Value, ObjectPath]] = []
        if isinstance(value, (ListNode, tuple)):
            items = value.items if isinstance(value, ListNode) else value
            below = [(item, path / i) for i, item in enumerate(items) if isinstance(item, _CONTAINERS)]
        else:
            pairs = mapping_pairs(value)
            if pairs is not None:
                yield path, value
                below = [
                    (v, path / k)
                    for k, v in pairs
                    if isinstance(k, (str, int, float, bytes)) and isinstance(v, _CONTAINERS)
                ]
        stack += reversed(below)


_CONTAINERS = (DictNode, Call, ListNode, tuple)


def _note_lost(
    drop: Iterable[str],
    convert: Mapping[str, tuple[tuple[str, ...], str, tuple[int, ...]]],
    values: Mapping[str, Value],
    names: Iterable[str],
    after: Mapping[Any, Value],
    storages: Mapping[str, StorageEntry],
    out: Edited,
) -> None:
    """Say which values the new file does not hold: tensors without another name, and parts that nothing takes."""
    reader = TensorReader(storages)

    def place(value: Value, key: str) -> tuple[object, ...] | None:
        entry = reader.read(value, key, ObjectPath((key,)))
        return (entry.storage_id, entry.offset, entry.shape, entry.stride) if isinstance(entry, TensorEntry) else None

    gone = sorted(drop)
    kept = {place(after[name], name) for name in names} if gone else set()
    lost = [key for key in gone if (where := place(values[key], key)) is None or where not in kept]
    if lost:
        out.dropped.append((_some(lost), f"left out ({len(lost):,} tensor{'s' if len(lost) != 1 else ''})"))
    taken: dict[str, int] = {}
    for sources, op, shape in convert.values():
        if len(sources) == 1 and op.split(":")[0] in ("slice", "split"):
            taken[sources[0]] = taken.get(sources[0], 0) + math.prod(shape)
    for key, count in taken.items():
        entry = reader.read(values[key], key, ObjectPath((key,)))
        if isinstance(entry, TensorEntry) and count < math.prod(entry.shape):
            out.dropped.append((key, f"{math.prod(entry.shape) - count:,} of its {math.prod(entry.shape):,} values"))


def _note_computed(
    tensors: Iterable[tuple[str, tuple[str, ...], str, tuple[int, ...], str]],
    values: Mapping[str, Value],
    storages: Mapping[str, StorageEntry],
    out: Edited,
) -> None:
    """Say of what is computed what it is made of, and what of its sources is gone."""
    reader = TensorReader(storages)
    for new, sources, how, shape, dtype in tensors:
        op, _, rest = how.partition(":")
        entries = [reader.read(values[s], s, ObjectPath((s,))) for s in sources]
        old = next((e for e in entries if isinstance(e, TensorEntry)), None)
        if op == "uniform":
            out.invented.append((new, f"drawn anew, uniformly within 1/sqrt({rest}), the same each time"))
        elif op == "value":
            out.invented.append((new, "the value that the model's constructor gives it here"))
        elif op == "fold":
            out.assumed.append((new, f"computed from {' and '.join(sources)}, rounded once"))
            out.dropped.append((sources[0], "the magnitude apart from the direction"))
        elif op == "norm":
            out.assumed.append((new, f"computed from {sources[0]}, rounded once"))
        elif op == "cast" and old is not None:
            out.dropped.append((new, f"what {dtype} cannot hold of {old.dtype}"))
        elif old is not None:
            count, wanted = math.prod(old.shape), math.prod(shape)
            if op == "grid":
                out.invented.append((new, f"interpolated from {list(old.shape)} to {list(shape)}"))
            elif wanted > count:
                out.invented.append((new, f"{wanted - count:,} values at its end, the mean of those that are there"))
            else:
                out.dropped.append((new, f"the last {count - wanted:,} of its {count:,} values"))


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _merge(into: dict[str, str], pairs: Iterable[tuple[str, str]]) -> None:
    for old, new in pairs:
        if into.setdefault(old, new) != new:
            raise CannotEdit(f"{old} is to get two names, {into[old]} and {new}")


def _mapping_at(root: Value, path: ObjectPath | None) -> Value:
    value = root
    for step in path or ():
        pairs = mapping_pairs(value)
        value = next((v for k, v in reversed(pairs or ()) if k == step and type(k) is type(step)), None)
    if path is None or mapping_pairs(value) is None:
        raise CannotEdit("its tensors are in no state_dict: it holds a whole module, or none")
    return value


def _own_pairs(value: Value) -> list[tuple[Value, Value]]:
    """The pairs of a mapping as a list that can be changed, each key once, as Python would keep them."""
    pairs = mapping_pairs(value)
    if pairs is None or not isinstance(value, (DictNode, Call)):
        raise CannotEdit("it is no dict")
    last: dict[Any, Value] = {}
    others = False
    for key, item in pairs:
        if isinstance(key, str):
            last[key] = item
        else:
            others = True
    if len(last) != len(pairs) and not others:
        pairs = list(last.items())
    if pairs is not value.pairs:
        value.pairs = list(pairs)
        if isinstance(value, Call):
            value.args = value.args if value.name == "collections.defaultdict" else ()
    return value.pairs


def module_renames(rename: Mapping[str, str], paths: Iterable[str]) -> dict[str, str]:
    """What a renaming of tensors makes of the paths of modules: only where all tensors below agree.

    Args:
        rename: New names by old names of tensors.
        paths: Paths of modules in the file.
    """
    found: dict[str, set[str]] = {}
    for old, new in rename.items():
        a, b = old.split("."), new.split(".")
        while a and b and a[-1] == b[-1]:
            a.pop()
            b.pop()
            if a and b:  # the model itself is there before and after
                found.setdefault(".".join(a), set()).add(".".join(b))
    known = set(paths)
    out = {old: next(iter(news)) for old, news in found.items() if len(news) == 1 and old in known}
    out = {old: new for old, new in out.items() if old != new and new not in known - out.keys()}
    return out if len(set(out.values())) == len(out) else {}


def _rename_metadata(holder: Call, rename: Mapping[str, str]) -> dict[str, str]:
    """``_metadata`` holds versions by module path: torch converts old tensors by them, so they move with the names."""
    state = mapping_pairs(holder.state) if holder.has_state else None
    stored = next((v for k, v in state or () if k == "_metadata"), None)
    pairs = mapping_pairs(stored)
    if pairs is None:
        return {}
    moved = module_renames(rename, (k for k, _ in pairs if isinstance(k, str)))
    for i, (key, value) in enumerate(pairs):
        if isinstance(key, str) and key in moved:
            pairs[i] = (moved[key], value)
    return moved


# ---------------------------------------------------------------- tensors


def _converted(
    convert: Mapping[str, tuple[tuple[str, ...], str, tuple[int, ...]]],
    values: Mapping[str, Value],
    storages: Mapping[str, StorageEntry],
    out: Edited,
) -> dict[str, Value]:
    reader = TensorReader(storages)
    made: dict[str, Value] = {}
    number = max((int(k) for k in (*storages, *out.storages) if k.isdecimal()), default=-1) + 1
    for new, (sources, op, shape) in convert.items():
        entries: list[TensorEntry] = []
        calls: list[Call] = []
        for source in sources:
            call = _plain_tensor(values[source])
            entry = reader.read(call, source, ObjectPath((source,)))
            if not isinstance(entry, TensorEntry) or entry.layout != "strided":
                raise CannotEdit(f"{source} is no tensor that can be turned or cut")
            entries.append(entry)
            calls.append(call)
        try:
            value = converted(entries, op, shape)
        except ValueError as error:
            raise CannotEdit(f"{new}: {error}") from None
        if isinstance(value, View):
            made[new] = _tensor(calls[0], calls[0].args[0], value.shape, value.stride, value.offset)
            continue
        key, number = str(number), number + 1
        out.storages[key] = value
        storage = _storage(calls[0], first_entry(value), key, math.prod(value.shape))
        made[new] = _tensor(calls[0], storage, value.shape, strides(value.shape), 0)
    return made


def _computed(
    tensors: Mapping[str, tuple[str, tuple[str, ...], str, tuple[int, ...], str]],
    values: Mapping[str, Value],
    storages: Mapping[str, StorageEntry],
    out: Edited,
) -> dict[str, Value]:
    reader = TensorReader(storages)
    made: dict[str, Value] = {}
    for new, (_, sources, how, shape, dtype) in tensors.items():
        entries: list[TensorEntry] = []
        for source in sources:
            entry = reader.read(_plain_tensor(values[source]), source, ObjectPath((source,)))
            if not isinstance(entry, TensorEntry) or entry.layout != "strided":
                raise CannotEdit(f"{source} is no tensor that anything is computed of")
            entries.append(entry)
        try:
            value = computed(new, entries, how, shape, dtype)
        except ValueError as error:
            raise CannotEdit(f"{new}: {error}") from None
        device = storages[entries[0].storage_id or ""].device if entries else "cpu"
        made[new] = _new_tensor(value, device, storages, out)
    return made


def _new_tensor(
    value: Computed | Held, device: str, storages: Mapping[str, StorageEntry], out: Edited, *, grad: bool = False
) -> Call:
    """A tensor on a storage of its own, described as torch.save describes one."""
    taken = [int(k) for k in (*storages, *out.storages) if k.isdecimal()]
    key = str(max(taken, default=-1) + 1)
    out.storages[key] = value
    kind = BY_NAME[value.dtype]
    numel = math.prod(value.shape)
    ordered = Call(Global("collections", "OrderedDict", 0), (), "reduce", 0)
    if kind.storage is not None:
        storage = Persistent(("storage", Global("torch", kind.storage, 0), key, device, numel), 0)
        callee = Global("torch._utils", "_rebuild_tensor_v2", 0)
        return Call(callee, (storage, 0, value.shape, strides(value.shape), grad, ordered), "reduce", 0)
    storage = Persistent(
        ("storage", Global("torch.storage", "UntypedStorage", 0), key, device, numel * kind.itemsize), 0
    )
    args = (storage, 0, value.shape, strides(value.shape), grad, ordered, Global("torch", value.dtype, 0))
    return Call(Global("torch._utils", "_rebuild_tensor_v3", 0), args, "reduce", 0)


def _plain_tensor(value: Value) -> Call:
    """The tensor in a Parameter; what was one stays no Parameter, since a state_dict holds tensors."""
    if isinstance(value, Call) and value.name in ("torch._utils._rebuild_parameter",) and value.args:
        value = value.args[0]
    if not isinstance(value, Call) or value.name not in (
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    ):
        raise CannotEdit("a tensor of another kind than plain ones is to be turned or cut")
    return value


def _tensor(like: Call, storage: Value, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Call:
    return Call(like.callee, (storage, offset, shape, stride, *like.args[4:]), "reduce", 0)


def _storage(like: Call, entry: TensorEntry, key: str, numel: int) -> Persistent:
    """The persistent id of a new storage: as that of a tensor, with another key and size."""
    old = like.args[0]
    if not isinstance(old, Persistent) or not isinstance(old.pid, tuple):
        raise CannotEdit("its storage is not described as torch describes one")
    untyped = isinstance(old.pid[1], Global) and old.pid[1].name == "UntypedStorage"
    if untyped:
        numel *= BY_NAME[entry.dtype].itemsize
    return Persistent(("storage", old.pid[1], key, old.pid[3], numel), 0)


# ---------------------------------------------------------------- entries and names


def _pairs_at(root: Value, path: Sequence[str], *, make: bool = False) -> list[tuple[Value, Value]]:
    value = root
    for step in path:
        inner = _metadata(value) if step == "_metadata" else None
        if inner is not None:
            value = inner
            continue
        if isinstance(value, ListNode) and step.isdecimal() and int(step) < len(value.items):
            value = value.items[int(step)]
            continue
        pairs = _own_pairs(value)
        below = next((v for k, v in reversed(pairs) if k == step and isinstance(k, str)), None)
        if below is None and make:
            below = DictNode()
            pairs.append((step, below))
        value = below
    return _own_pairs(value)


def _metadata(value: Value) -> Value | None:
    """``_metadata`` of a state_dict: an attribute of the dict, not one of its entries."""
    state = mapping_pairs(value.state) if isinstance(value, Call) and value.has_state else None
    return next((v for k, v in state or () if k == "_metadata"), None)


def _set_entry(root: Value, edit: SetEntry) -> None:
    pairs = _pairs_at(root, edit.path[:-1], make=True)
    name, value = edit.path[-1], node_of(edit.value)
    for i, (key, _) in enumerate(pairs):
        if key == name and isinstance(key, str):
            pairs[i] = (key, value)
            return
    pairs.append((name, value))


def _drop_entry(root: Value, edit: DropEntry) -> None:
    pairs = _pairs_at(root, edit.path[:-1])
    kept = [(k, v) for k, v in pairs if not (isinstance(k, str) and k == edit.path[-1])]
    if len(kept) == len(pairs):
        raise CannotEdit(f"there is no entry {'.'.join(edit.path)} in it")
    pairs[:] = kept


def _with_attributes(value: Value) -> Call:
    """An OrderedDict whose ``__dict__`` holds its items: ``args.x`` and ``args["x"]`` both work, and it is a dict."""
    pairs = mapping_pairs(value)
    if pairs is None:
        raise CannotEdit("what is to be read by attribute is no dict")
    out = Call(Global("collections", "OrderedDict", 0), (), "reduce", 0)
    out.pairs = list(pairs)
    named: list[tuple[Value, Value]] = [(k, v) for k, v in pairs if isinstance(k, str)]
    if named:
        out.state, out.has_state = DictNode(named), True
    return out


def _wrap_entry(root: Value, edit: WrapEntry) -> None:
    pairs = _pairs_at(root, edit.path[:-1])
    found = [i for i, (k, _) in enumerate(pairs) if isinstance(k, str) and k == edit.path[-1]]
    if not found:
        raise CannotEdit(f"there is no entry {'.'.join(edit.path)} in it")
    for i in found:
        key, value = pairs[i]
        pairs[i] = (key, DictNode([(edit.key, _with_attributes(value) if edit.attributes else value)]))
    top = _own_pairs(root)
    top[:] = [(k, v) for k, v in top if not (isinstance(k, str) and k in edit.instead)]


def _move_entry(out: Edited, edit: MoveEntry) -> Value:
    root = out.root
    if not edit.old:
        return DictNode([(edit.new[-1], root)])
    old, new = edit.old[-1], edit.new[-1]
    pairs = _pairs_at(root, edit.old[:-1])
    if not any(k == old and isinstance(k, str) for k, _ in pairs):
        raise CannotEdit(f"there is no entry {'.'.join(edit.old)} in it")
    if edit.old[:-1] == edit.new[:-1]:
        kept = [(k, v) for k, v in pairs if not (isinstance(k, str) and k == new)]
        if len(kept) < len(pairs):
            out.dropped.append((".".join(edit.new), f"what stood there, in favour of {'.'.join(edit.old)}"))
        pairs[:] = [(new if isinstance(k, str) and k == old else k, v) for k, v in kept]
        return root
    value = next(v for k, v in reversed(pairs) if isinstance(k, str) and k == old)
    pairs[:] = [(k, v) for k, v in pairs if not (isinstance(k, str) and k == old)]
    there = _pairs_at(root, edit.new[:-1], make=True)
    if any(isinstance(k, str) and k == new for k, _ in there):
        out.dropped.append((".".join(edit.new), f"what stood there, in favour of {'.'.join(edit.old)}"))
    there[:] = [(k, v) for k, v in there if not (isinstance(k, str) and k == new)] + [(new, value)]
    return root


def node_of(value: Plain) -> Value:
    """Plain data as a tree."""
    if isinstance(value, list):
        return ListNode([node_of(v) for v in value])
    if isinstance(value, dict):
        return DictNode([(k, node_of(v)) for k, v in value.items()])
    return value


def _replace_global(root: Value, edit: ReplaceGlobal) -> None:
    new = name_node(edit.new)
    found = False
    seen: set[int] = set()
    stack: list[Any] = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, Global):
            if value.full_name == edit.old or value.stored == edit.old:
                value.module, value.name, value.stored = new.module, new.name, new.stored
                found = True
            continue
        if value.__class__ in (str, int, float, bool, bytes) or value is None or id(value) in seen:
            continue
        seen.add(id(value))
        stack.extend(parts_of(value))
    if not found:
        raise CannotEdit(f"it does not name {edit.old}")


def parts_of(value: Any) -> list[Any]:
    """All that a value holds, keys and callees included."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, DictNode):
        return [part for pair in value.pairs for part in pair]
    if isinstance(value, Call):
        inside = [value.callee, *value.args, *value.items]
        inside += [part for pair in (*value.pairs, *value.kwargs) for part in pair]
        return [*inside, value.state] if value.has_state else inside
    if isinstance(value, Persistent):
        return [value.pid]
    return list(getattr(value, "items", ()))


def _make_plain(out: Edited, edit: MakePlain, storages: Mapping[str, StorageEntry]) -> None:
    def stored(array: plain_data.Numbers, grad: bool) -> Value:
        return _new_tensor(Held(array.data, array.shape, array.dtype), "cpu", storages, out, grad=grad)

    done = plain_data.make_plain(out.root, drop=edit.drop, keep=edit.keep, stored=stored)
    out.changed += done.tensors
    if done.inexact and not edit.objects:
        kept = [c for c in done.inexact if c[2] != plain_data.LEFT_OUT]
        if kept:
            raise CannotEdit(f"{kept[0][0]} is {kept[0][1]}; --allow plain-objects makes it {kept[0][2]}")
    if done.left:
        path, what = done.left[0]
        raise CannotEdit(f"{path} is {what}, which has no plain form; --allow drop-object leaves it out")
    out.root = done.root
    out.plain = list(done.changes)
    out.dropped += [
        (path, f"{was} is left out") for path, was, becomes in done.inexact if becomes == plain_data.LEFT_OUT
    ]
    out.assumed += [
        (path, f"{was} -> {becomes}") for path, was, becomes in done.inexact if becomes != plain_data.LEFT_OUT
    ]

"""States of optimizers whose parameters are joined or cut: whether the state of the whole can be made of those of the parts."""

from __future__ import annotations

import os
from collections.abc import Sequence

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.errors import SourceError
from relight.core.objects import Call, ListNode, ObjectPath, Value, mapping_get, mapping_pairs
from relight.facts.describe import listed
from relight.facts.lightning import LightningView
from relight.reader.source import open_local
from relight.reader.tensors import REBUILD_NAMES, TensorReader
from relight.reader.values import chunks

# States with a value for each of the parameter. Source: torch 2.13, torch/optim: the states that _init_group makes with
# zeros_like of the parameter; those of Adafactor, for one, have other shapes.
ELEMENTWISE = frozenset({
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "grad_avg", "sum", "exp_inf",
    "prev", "step_size", "ax",
})  # fmt: skip


def states_at(view: LightningView, optimizer: int) -> list[Value | None]:
    """The state of each parameter of an optimizer, by its position over all groups; None where it has none."""
    every = view.get("optimizer_states")
    if not isinstance(every, ListNode) or optimizer >= len(every.items):
        return []
    found = {
        k: v for k, v in mapping_pairs(mapping_get(every.items[optimizer], "state")) or () if isinstance(k, (int, str))
    }
    out: list[Value | None] = []
    groups = mapping_get(every.items[optimizer], "param_groups")
    for group in groups.items if isinstance(groups, ListNode) else ():
        members = mapping_get(group, "params")
        ids = members.items if isinstance(members, ListNode) else ()
        out += [found.get(i) if isinstance(i, (int, str)) else None for i in ids]
    return out


def is_tensor(value: Value) -> bool:
    """Whether a value of a state is a tensor."""
    return isinstance(value, Call) and value.name in REBUILD_NAMES


def cannot_be_made(checkpoint: Checkpoint, states: Sequence[Value | None], names: Sequence[str]) -> str:
    """Why no state of the whole, or of a piece, can be made of these; empty where it can.

    Args:
        checkpoint: The file.
        states: Of the parameters that are joined, or of the one that is cut.
        names: What these are called in the file.
    """
    if all(s is None for s in states):
        return ""
    without = [n for n, s in zip(names, states, strict=True) if s is None]
    if without:
        return f"{listed(names)} are one parameter now, and {without[0]} has no state"
    entries = [dict(mapping_pairs(s) or ()) for s in states]
    for name in dict.fromkeys(k for e in entries for k in e if isinstance(k, str)):
        values = [e.get(name) for e in entries]
        if name in ELEMENTWISE:
            if len({is_tensor(v) for v in values}) > 1:
                return f"{listed(names)} are one parameter now, and not all of them have {name}"
            continue
        if any(is_tensor(v) and _sizes(v) != () for v in values):
            return f"{name} of an optimizer's state is not kept value by value, and cannot be joined or cut"
        if len(values) > 1:
            told = [_number(checkpoint, v) for v in values]
            if None in told:
                return f"{listed(names)} are one parameter now, and whether {name} of their states is the same cannot be read"
            if len(set(told)) > 1:
                shown = " and ".join(f"{n:g}" if isinstance(n, float) else str(n) for n in dict.fromkeys(told))
                return f"{listed(names)} are one parameter now, and {name} of their states differs: {shown}"
    return ""


def _sizes(value: Value) -> object:
    return value.args[2] if isinstance(value, Call) and len(value.args) > 2 else None


def _number(checkpoint: Checkpoint, value: Value) -> object:
    """What a state keeps once for all values; None where that cannot be read."""
    if not is_tensor(value):
        return value if isinstance(value, (int, float, str, bool)) else "nothing" if value is None else None
    entry = TensorReader(checkpoint.storages).read(value, "state", ObjectPath(("state",)))
    if not isinstance(entry, TensorEntry) or not os.path.isfile(checkpoint.origin):
        return None
    storage = checkpoint.storages.get(entry.storage_id or "")
    if storage is None:
        return None
    try:
        source = open_local(checkpoint.origin)
    except SourceError:
        return None
    try:
        data = b"".join(chunks(source, entry, storage))
    except (SourceError, ValueError):
        return None
    finally:
        source.close()
    return _value(data, entry.dtype, little=checkpoint.little_endian)


def _value(data: bytes, dtype: str, *, little: bool) -> object:
    import struct

    code = {"float32": "f", "float64": "d", "int64": "q", "int32": "i"}.get(dtype)
    return data.hex() if code is None else struct.unpack(("<" if little else ">") + code, data)[0]

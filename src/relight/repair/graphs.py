"""Whether two trees of pickled values are the same graph: equal values, and shared where the other shares."""

from __future__ import annotations

import struct
from typing import Any

from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value

_NODES = (ListNode, DictNode, SetNode, Call)


def same_graph(left: Value, right: Value) -> bool:
    """Compare two trees without recursion; every pair of shared nodes once."""
    stack: list[tuple[Any, Any]] = [(left, right)]
    partner: dict[int, int] = {}
    back: dict[int, int] = {}
    tuples: set[tuple[int, int]] = set()
    while stack:
        a, b = stack.pop()
        kind = a.__class__
        if kind is not b.__class__:
            return False
        if kind in _NODES:
            known = partner.get(id(a))
            if known is not None or id(b) in back:
                if known != id(b) or back.get(id(b)) != id(a):
                    return False
                continue
            partner[id(a)], back[id(b)] = id(b), id(a)
            if not _push(stack, a, b):
                return False
        elif kind is tuple:
            if a is b or (id(a), id(b)) in tuples:
                continue
            if len(a) != len(b):
                return False
            tuples.add((id(a), id(b)))
            stack.extend(zip(a, b, strict=True))
        elif kind is Persistent:
            stack.append((a.pid, b.pid))
        elif kind is Global:
            if a.full_name != b.full_name:
                return False
        elif kind is float:
            if struct.pack("<d", a) != struct.pack("<d", b):  # NaN is itself, and 0.0 is not -0.0
                return False
        elif kind is Opaque or a != b:
            return False
    return True


def _push(stack: list[tuple[Any, Any]], a: Any, b: Any) -> bool:
    """Put the parts of two containers of one class side by side; whether they can be compared at all."""
    if isinstance(a, Call):
        if a.how != b.how or len(a.args) != len(b.args) or a.has_state != b.has_state:
            return False
        if not (len(a.items) == len(b.items) and len(a.pairs) == len(b.pairs) and len(a.kwargs) == len(b.kwargs)):
            return False
        stack.append((a.callee, b.callee))
        stack.extend(zip(a.args, b.args, strict=True))
        stack.append((a.state, b.state))
        stack.extend(zip(a.items, b.items, strict=True))
        for mine, theirs in (*zip(a.pairs, b.pairs, strict=True), *zip(a.kwargs, b.kwargs, strict=True)):
            stack.extend(zip(mine, theirs, strict=True))
        return True
    if isinstance(a, DictNode):
        if len(a.pairs) != len(b.pairs):
            return False
        for mine, theirs in zip(a.pairs, b.pairs, strict=True):
            stack.extend(zip(mine, theirs, strict=True))
        return True
    if isinstance(a, SetNode) and a.frozen != b.frozen:
        return False
    if len(a.items) != len(b.items):
        return False
    stack.extend(zip(a.items, b.items, strict=True))
    return True

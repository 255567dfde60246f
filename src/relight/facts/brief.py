"""A pickled value in one line, as Python would write it where it can."""

from __future__ import annotations

from relight.core.objects import Call, DictNode, Global, ListNode, SetNode, Value, mapping_get, mapping_pairs
from relight.facts.lightning import hparam_items, type_name


def brief(value: Value) -> str:
    """A value in one line, as Python would write it where it can."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(brief(v) for v in value[:6])}{', ...' if len(value) > 6 else ''})"
    if isinstance(value, (ListNode, SetNode)):
        inner = ", ".join(brief(v) for v in value.items[:6]) + (", ..." if len(value.items) > 6 else "")
        return f"[{inner}]" if isinstance(value, ListNode) else f"{{{inner}}}"
    if isinstance(value, Global):
        return value.full_name
    pairs = mapping_pairs(value)
    if isinstance(value, DictNode) and pairs is not None:
        inner = ", ".join(f"{brief(k)}: {brief(v)}" for k, v in pairs[:6]) + (", ..." if len(pairs) > 6 else "")
        return f"{{{inner}}}"
    if isinstance(value, Call) and value.name.startswith("omegaconf.nodes."):
        return brief(mapping_get(value.state, "_val"))  # a leaf of a DictConfig: the node around it says nothing
    if isinstance(value, Call) and value.name == "omegaconf.listconfig.ListConfig":
        content = mapping_get(value.state, "_content")
        return brief(content) if isinstance(content, ListNode) else "ListConfig(...)"
    if isinstance(value, Call):
        inside = [f"{n}={brief(v)}" for n, v in list(hparam_items(value))[:6] if not n.startswith("_")]
        if not inside:
            inside = [brief(a) for a in value.args[:4]]
        return f"{type_name(value)}({', '.join(inside)})"
    return "..."

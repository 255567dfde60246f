"""The class that an object of a vanished class belongs to now, by the attributes that both have: parsed, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from relight.core.objects import Call, mapping_pairs
from relight.facts.imports import Resolution

_LARGEST = 4 << 20  # bytes of a source that is parsed


def present_name(file: str, gone: Resolution) -> str | None:
    """``module.Name`` of the only class in the source whose attributes are those of the object; None if there is none.

    Args:
        file: The source of the module that lost the name.
        gone: The name, with an object of it.
    """
    value = gone.value
    pairs = mapping_pairs(value.state) if isinstance(value, Call) and value.has_state else None
    held = {k for k, _ in pairs or () if isinstance(k, str)}
    if not held:
        return None
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read(_LARGEST))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    hits = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and set(_attributes(n)) == held]
    return f"{gone.ref.module}.{hits[0]}" if len(hits) == 1 else None


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """Fields as dataclasses declare them, and what the methods assign to ``self``."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id
    for part in ast.walk(node):
        if (
            isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store)
            and isinstance(part.value, ast.Name)
            and part.value.id == "self"
        ):
            yield part.attr

"""Small JSON documents that files carry: an index, a description of shards."""

from __future__ import annotations

import json
import re

_BRACKETS = re.compile(rb"[\[\]{}]")
_JSON_DEPTH = 8


def parse_json(raw: bytes) -> object | str:
    """A small JSON document; a text that says what is wrong where it is none."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(raw):
        depth += 1 if bracket in b"{[" else -1
        deepest = max(deepest, depth)
    if deepest > _JSON_DEPTH:
        return f"is nested {deepest} deep"
    doubled = False

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal doubled
        out = dict(items)
        doubled = doubled or len(out) != len(items)
        return out

    try:
        value: object = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    return "has the same key twice" if doubled else value if not isinstance(value, str) else "is a text"

"""``map --format json``: schema ``relight/map/1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relight.facts.mapper.pairs import KeyMap
from relight.facts.mapper.rules import Rule


def render(found: KeyMap, rules: Sequence[Rule], source: str, target: str) -> dict[str, Any]:
    """The mapping as plain data."""
    return {
        "schema": "relight/map/1",
        "source": source,
        "target": target,
        "refused": found.refused or None,
        "pairs": [
            {
                "target": p.target,
                "source": list(p.source),
                "op": p.op,
                "confidence": p.confidence,
                "reason": p.reason,
                "warning": p.warning or None,
            }
            for p in found.pairs.values()
        ],
        "rules": [{"source": list(r.source), "target": list(r.target), "op": r.op} for r in rules],
        "initialised": list(found.initialised),
        "leftover": list(found.leftover),
        "questions": list(found.questions),
    }

"""The page of names that can be allowed has all of them, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import relight

ROOT = Path(__file__).parents[2]
SOURCES = [p for layer in ("rules", "facts") for p in (Path(relight.__file__).parent / layer).rglob("*.py")]


def test_every_name_is_on_the_page_and_none_that_is_gone():
    used = set()
    for path in SOURCES:
        for expression in re.findall(r"\ballow=(.+)", path.read_text(encoding="utf-8")):
            used |= set(re.findall(r'"([a-z-]+)"', expression))
    table = [
        line for line in (ROOT / "docs" / "allow.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    listed = set(re.findall(r"`([a-z-]+)`", " ".join(line.split("|")[1] for line in table)))
    assert len(used) >= 25
    assert listed == used

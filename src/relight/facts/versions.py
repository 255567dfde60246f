"""Comparing version strings without importing `packaging` where a glance suffices."""

from __future__ import annotations

import re


def release(version: str) -> tuple[int, ...]:
    """The numeric release: ``2.6.0.dev1+cpu`` → ``(2, 6, 0)``; empty for a text without numbers in front."""
    # Files hold any text there: a number of thousands of digits is no part of a version, and int() refuses it.
    match = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)(?!\d)", version.strip())
    return tuple(int(p) for p in match.group(1).split(".")) if match else ()


def at_least(version: str | None, bound: str) -> bool | None:
    """Whether a version is ``bound`` or newer; None if it is unknown."""
    if version is None or not release(version):
        return None
    a, b = release(version), release(bound)
    width = max(len(a), len(b))
    return a + (0,) * (width - len(a)) >= b + (0,) * (width - len(b))

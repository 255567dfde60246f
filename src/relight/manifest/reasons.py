"""Why a part of a manifest is missing, in words that are always there."""

from __future__ import annotations


def reason_of(error: Exception) -> str:
    """``TypeError: not a plain tensor``; the class alone where the exception's own text raises one."""
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except Exception:
        return type(error).__name__

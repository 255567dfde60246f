"""Bytes to nouns. Never raises for what a file holds: gives what was read, and problems."""

from __future__ import annotations

from relight.reader.detect import open_checkpoint
from relight.reader.limits import DEFAULT_LIMITS, Limits

__all__ = ["DEFAULT_LIMITS", "Limits", "open_checkpoint"]

"""The safety verdict: a noun of its own, since reading has it and findings are not needed for it."""

from __future__ import annotations

from enum import Enum


class Safety(str, Enum):
    """What can be said about the file's intentions. Never ``ok`` by default."""

    OK = "ok"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"
    LIMIT = "limit"
    DANGEROUS = "dangerous"

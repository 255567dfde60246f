"""The words of a key: wrappers taken off, numbers apart, synonyms brought together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from relight.facts import data

_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that stand for one thing in the code of different people.

    Attributes:
        wrappers: Segments that a wrapper adds; they say nothing about the layer.
        synonyms: Words and what they stand for; a word may stand for several in a row.
        roles: Words for things that are never one another: a query is no key.
        leaves: Names of parameters and what they stand for.
        copies: Words that mark another copy of the model, which is not the live one.
        opposites: Words for parts that are equal in shape and different in kind, and what they are not.
    """

    wrappers: frozenset[str]
    synonyms: dict[str, tuple[str, ...]]
    roles: frozenset[str]
    leaves: dict[str, str]
    copies: frozenset[str]
    opposites: dict[str, frozenset[str]]


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The vocabulary of ``data/key_words.json``."""
    raw = data.load("key_words")
    return Vocabulary(
        wrappers=frozenset(raw["wrappers"]["words"]),
        synonyms={w: tuple(stands.split()) for stands, entry in raw["synonyms"].items() for w in entry["words"]},
        roles=frozenset(raw["roles"]["words"]),
        leaves={w: leaf for leaf, entry in raw["leaves"].items() for w in entry["words"]},
        copies=frozenset(raw["copies"]["words"]),
        opposites={w: frozenset(pair) - {w} for pair in raw["opposites"]["words"] for w in pair},
    )


@lru_cache(maxsize=65536)
def words(segment: str) -> tuple[str, ...]:
    """Words of one segment, lower case, numbers left out, synonyms replaced.

    ``LayerNorm1`` is ``norm``, ``self_attn`` is ``attn``, ``out_proj`` is ``attn`` and ``out``.
    """
    table = vocabulary().synonyms
    whole = segment.lower().strip("_")
    if whole in table:
        return table[whole]
    parts = [p.lower() for p in _PARTS.findall(segment) if not p.isdigit()]
    out: list[str] = []
    at = 0
    while at < len(parts):
        # The longest phrase that stands for something: "self_attn" before "self".
        for end in range(min(at + 4, len(parts)), at, -1):
            phrase = "_".join(parts[at:end])
            if phrase in table:
                out.extend(table[phrase])
                break
        else:
            end = at + 1
            out.append(parts[at])
        at = end
    return tuple(out)


@lru_cache(maxsize=65536)
def numbers(segment: str) -> tuple[int, ...]:
    """Numbers of one segment, at most nine digits each."""
    return tuple(int(n) for n in re.findall(r"\d+", segment) if len(n) < 10)


def stripped(key: str) -> str:
    """A key without the segments of wrappers, wherever they stand."""
    wrappers = vocabulary().wrappers
    parts = key.split(".")
    kept = [p for p in parts if p not in wrappers]
    return ".".join(kept) if kept and len(kept) < len(parts) else key

"""Two names laid beside each other: how far apart they are, and the stretches in which they differ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_TOKENS = re.compile(r"[A-Za-z]+|\d+|[^A-Za-z\d]")
_JOINT = 0.25  # what a dot or an underscore weighs beside a word
_FIRST = 4  # names of a block that are tried as a stretch of their own
_CONTEXT = 2  # names on each side that a rule may name beside what it changes


@lru_cache(maxsize=65536)
def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers and single signs of a name."""
    return tuple(_TOKENS.findall(text))


def _weight(token: str) -> float:
    return 1.0 if token[0].isalnum() else _JOINT


@lru_cache(maxsize=262144)
def distance(a: str, b: str) -> float:
    """How much has to be replaced, put in and taken out to make one name of another; 0.0 only for the same."""
    if a == b:
        return 0.0
    mine, theirs = tokens(a), tokens(b)
    first = 0
    while first < min(len(mine), len(theirs)) and mine[first] == theirs[first]:
        first += 1
    last = 0
    while last < min(len(mine), len(theirs)) - first and mine[-1 - last] == theirs[-1 - last]:
        last += 1
    mine, theirs = mine[first : len(mine) - last], theirs[first : len(theirs) - last]
    weights = [_weight(t) for t in theirs]
    row = [0.0]
    for w in weights:
        row.append(row[-1] + w)
    for token in mine:
        w = _weight(token)
        before = row
        row = [before[0] + w]
        for j, other in enumerate(theirs):
            swapped = before[j] + (0.0 if token == other else max(w, weights[j]))
            row.append(min(swapped, before[j + 1] + w, row[j] + weights[j]))
    return row[-1]


def _alike(token: str) -> float:
    """What it says that a token stands on both sides."""
    return 1.0 if token.isalpha() else 0.375 if token.isdigit() else 0.25


def aligned(mine: tuple[str, ...], theirs: tuple[str, ...]) -> dict[int, int]:
    """Which token of one is which of the other: the heaviest common subsequence."""
    n, m = len(mine), len(theirs)
    best = [[0.0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            here = best[i + 1][j] if best[i + 1][j] > best[i][j + 1] else best[i][j + 1]
            if mine[i] == theirs[j]:
                here = max(here, best[i + 1][j + 1] + _alike(mine[i]))
            best[i][j] = here
    out: dict[int, int] = {}
    i = j = 0
    while i < n and j < m:
        if mine[i] == theirs[j] and best[i][j] == best[i + 1][j + 1] + _alike(mine[i]):
            out[i] = j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return out


class Window(NamedTuple):
    """A stretch of one name and what stands there in the other.

    Attributes:
        kind: ``front`` from the start on, ``name`` from the start of a name, ``text`` anywhere.
        source: The text of the one.
        target: The text of the other.
    """

    kind: str
    source: str
    target: str


@lru_cache(maxsize=65536)
def windows(a: str, b: str) -> tuple[Window, ...]:
    """Stretches that a rule might rewrite, with more or less of what stands beside them."""
    return tuple(dict.fromkeys(_windows(a, b)))


def _windows(a: str, b: str) -> Iterator[Window]:
    mine, theirs = tokens(a), tokens(b)
    same = aligned(mine, theirs)
    stretches = _stretches(len(mine), len(theirs), same)
    if mine[:1] != theirs[:1]:
        # The first names: a block that moves, whatever becomes of what it holds.
        for k in _ends(mine):
            for m in _ends(theirs):
                yield Window("front", "".join(mine[:k]), "".join(theirs[:m]))
    for n, (i1, _, j1, _) in enumerate(stretches):
        for _, i2, _, j2 in stretches[n:]:
            left = _leftwards(mine, theirs, same, i1, j1)
            right = _rightwards(mine, theirs, same, i2, j2)
            for i, j in left:
                for k, m in right:
                    source, target = "".join(mine[i:k]), "".join(theirs[j:m])
                    if k < len(mine) and source and target and source.endswith(".") != target.endswith("."):
                        continue  # a whole name becomes a whole name
                    if i == j == 0:
                        yield Window("front", source, target)
                        if k == len(mine) and m == len(theirs):
                            yield Window("front", source + "$", target + "$")
                    if source and (i == 0 or mine[i - 1] == ".") and (j == 0 or theirs[j - 1] == "."):
                        yield Window("name", source, target)
        i2, j2 = stretches[n][1], stretches[n][3]
        if i2 > i1:
            yield Window("text", "".join(mine[i1:i2]), "".join(theirs[j1:j2]))
            if i1 and same.get(i1 - 1) == j1 - 1:
                yield Window("text", "".join(mine[i1 - 1 : i2]), "".join(theirs[j1 - 1 : j2]))


def _stretches(n: int, m: int, same: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """The stretches without a common token: from, to in the one, from, to in the other."""
    out = []
    i = j = 0
    for a, b in [*same.items(), (n, m)]:
        if a > i or b > j:
            out.append((i, a, j, b))
        i, j = a + 1, b + 1
    return out


def _ends(parts: tuple[str, ...]) -> list[int]:
    """Where the first names end."""
    return [n + 1 for n, part in enumerate(parts) if part == "."][:_FIRST]


def _leftwards(
    mine: tuple[str, ...], theirs: tuple[str, ...], same: dict[int, int], i: int, j: int
) -> list[tuple[int, int]]:
    """Starts of names at and before a place, as far as both sides agree; and the very start."""
    out = []
    starts = 0
    while True:
        if i == 0 or mine[i - 1] == ".":
            starts += 1
            if starts <= _CONTEXT + 1:
                out.append((i, j))
        if i == 0 or j == 0 or same.get(i - 1) != j - 1:
            break
        i, j = i - 1, j - 1
    if i == j == 0 and (0, 0) not in out:
        out.append((0, 0))
    return out


def _rightwards(
    mine: tuple[str, ...], theirs: tuple[str, ...], same: dict[int, int], i: int, j: int
) -> list[tuple[int, int]]:
    """Ends at and behind a place, as far as both sides agree."""
    out = [(i, j)] if i == len(mine) or not (mine[i] == "." and same.get(i) == j) else []
    ends = 0
    while i < len(mine) and same.get(i) == j and ends <= _CONTEXT:
        i, j = i + 1, j + 1
        if mine[i - 1] == "." or i == len(mine):
            ends += 1
            out.append((i, j))
    return out

"""Numbered layers (of a Sequential or ModuleList, or attributes that end in a number) at other positions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from relight.facts.attribution.board import Board, Explanation, Shape

_COVERED = 0.6  # of the shorter side that must be found in order, for its numbers to have moved
_NUMBERED = re.compile(r"(?<![0-9])(0|[1-9][0-9]*)(?=\.)")
_MOST = 1500  # layers in one container; aligning takes the square of it

Block: TypeAlias = frozenset[tuple[str, Shape | None]]
Blocks: TypeAlias = list[tuple[int, Block]]


def match_index_shift(board: Board) -> None:
    """A layer inserted into or taken out of a numbered container renumbers what follows it."""
    containers: dict[str, int] = {}
    for key in (*board.missing, *board.unexpected, *board.mismatched):
        for match in _NUMBERED.finditer(key):
            containers[key[: match.start(1)]] = key.count(".", 0, match.start(1))
    # From the outside in: what the outer numbers explain, the inner ones need not.
    for container in sorted(containers, key=containers.__getitem__):
        found = _shift(board, container)
        if found is not None:
            board.add(found)


def _shift(board: Board, prefix: str) -> Explanation | None:
    """The shift among the layers whose names are the prefix and a number: ``net.3``, ``features.denselayer3``."""
    saved = _blocks(board.saved, board.entries, prefix)
    wanted = _blocks(board.wanted, (k for k, p in board.params.items() if p.persistent), prefix)
    if not 2 <= len(saved) <= _MOST or not 2 <= len(wanted) <= _MOST:
        return None
    pairs = _aligned(saved, wanted)
    theirs = dict(wanted)
    at_home = sum(theirs.get(i) == block for i, block in saved)
    if len(pairs) <= at_home or len(pairs) < _COVERED * min(len(saved), len(wanted)):
        return None
    moves = tuple((a, b) for a, b in pairs if a != b)
    fresh = {i for i, _ in wanted} - {b for _, b in pairs}
    gone = {i for i, _ in saved} - {a for a, _ in pairs}
    if fresh and gone:
        return None  # layers changed as well: sizes or names say more than positions
    rests = {i: [rest for rest, _ in block] for i, block in saved}
    joined = [(f"{prefix}{a}.{rest}", f"{prefix}{b}.{rest}") for a, b in moves for rest in rests[a]]
    inside = {f"{prefix}{i}." for i in (*fresh, *gone, *(n for move in moves for n in move))}

    def touched(key: str) -> bool:
        return key.startswith(prefix) and f"{prefix}{key[len(prefix) :].partition('.')[0]}." in inside

    missing = tuple(k for k in board.missing if touched(k))
    unexpected = tuple(k for k in board.unexpected if touched(k))
    mismatched = tuple(m for k, m in board.mismatched.items() if touched(k))
    if not missing and not unexpected and not mismatched:
        return None
    return Explanation(
        kind="index-shift",
        cause="sequential-index-shift",
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
        pairs=tuple((o, n) for o, n in joined if o in board.entries and n in board.params),
        certain=False,  # equal blocks can be told apart by their order only
        about={
            "container": prefix.rstrip("."),
            "prefix": prefix,
            "moves": moves,
            "new": tuple(sorted(fresh)),
            "gone": tuple(sorted(gone)),
        },
    )


def _blocks(shape: Callable[[str], Shape | None], keys: Iterable[str], prefix: str) -> Blocks:
    """What stands at each number, in order of the numbers."""
    out: dict[int, set[tuple[str, Shape | None]]] = defaultdict(set)
    for key in keys:
        if key.startswith(prefix):
            index, _, rest = key[len(prefix) :].partition(".")
            # torch fills the counter in where an old file lacks it.
            if index.isdigit() and rest and not rest.endswith("num_batches_tracked"):
                out[int(index)].add((rest, shape(key)))
    return [(i, frozenset(block)) for i, block in sorted(out.items())]


def _aligned(saved: Sequence[tuple[int, Block]], wanted: Sequence[tuple[int, Block]]) -> list[tuple[int, int]]:
    """Pairs of numbers of equal blocks, as many as can be in order; among as many, those whose numbers agree."""
    stay = 1 / (len(saved) + len(wanted) + 1)
    best = [[0.0] * (len(wanted) + 1) for _ in range(len(saved) + 1)]
    for i in reversed(range(len(saved))):
        for j in reversed(range(len(wanted))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            if saved[i][1] == wanted[j][1]:
                worth = 1 + (stay if saved[i][0] == wanted[j][0] else 0)
                best[i][j] = max(best[i][j], best[i + 1][j + 1] + worth)
    pairs: list[tuple[int, int]] = []
    i = j = 0
    while i < len(saved) and j < len(wanted):
        worth = 1 + (stay if saved[i][0] == wanted[j][0] else 0)
        if saved[i][1] == wanted[j][1] and best[i][j] == best[i + 1][j + 1] + worth:
            pairs.append((saved[i][0], wanted[j][0]))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs

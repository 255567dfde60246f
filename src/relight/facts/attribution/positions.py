"""Numbered layers (of a Sequential or ModuleList, or attributes that end in a number) at other positions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TypeAlias

from relight.facts.attribution.board import Board, Explanation, Shape

_COVERED = 0.6  # of the shorter side that must be found in order, for its numbers to have moved
_FEW_MOVES = 6  # that a command can name and still be read
_NUMBERED = re.compile(r"(?<![0-9])(0|[1-9][0-9]*)(?=\.)")
_MOST = 1500  # layers in one container; aligning takes the square of it

Block: TypeAlias = frozenset[tuple[str, Shape | None]]
Moves: TypeAlias = tuple[tuple[int, int], ...]
Blocks: TypeAlias = list[tuple[int, Block]]


def match_index_shift(board: Board) -> None:
    """A layer inserted into or taken out of a numbered container renumbers what follows it."""
    containers: dict[str, int] = {}
    for key in (*board.missing, *board.unexpected, *board.mismatched):
        for match in _NUMBERED.finditer(key):
            containers[key[: match.start(1)]] = key.count(".", 0, match.start(1))
    saved = _by_container(board.entries, containers)
    wanted = _by_container((k for k, p in board.params.items() if p.persistent), containers)
    # From the outside in: what the outer numbers explain, the inner ones need not.
    for container in sorted(containers, key=containers.__getitem__):
        found = _shift(board, container, saved.get(container, ()), wanted.get(container, ()))
        if found is not None:
            board.add(found)


def _by_container(keys: Iterable[str], containers: Container[str]) -> dict[str, list[str]]:
    """The keys below each container, looked up once for all of them."""
    out: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        for match in _NUMBERED.finditer(key):
            prefix = key[: match.start(1)]
            if prefix in containers:
                out[prefix].append(key)
    return out


def _shift(board: Board, prefix: str, mine: Iterable[str], theirs: Iterable[str]) -> Explanation | None:
    """The shift among the layers whose names are the prefix and a number: ``net.3``, ``features.denselayer3``.

    Args:
        board: What is open.
        prefix: What stands before the number.
        mine: Keys of the file below it.
        theirs: Keys of the model below it.
    """
    saved, wanted = _blocks(board.saved, mine, prefix), _blocks(board.wanted, theirs, prefix)
    if not 2 <= len(saved) <= _MOST or not 2 <= len(wanted) <= _MOST:
        return None
    pairs = _aligned(saved, wanted)
    at_home = len({*saved} & {*wanted})
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
            "otherwise": _otherwise(saved, wanted, moves),
        },
    )


def _otherwise(saved: Blocks, wanted: Blocks, moves: Moves) -> tuple[tuple[Moves, tuple[int, ...]], ...]:
    """Moves that fit as well, and what would be new then: the last of several equal layers, where one was taken before."""
    late = _aligned(saved[::-1], wanted[::-1], at_home=False)[::-1]
    other = tuple((a, b) for a, b in late if a != b)
    if other == moves or len(other) > _FEW_MOVES:
        return ()
    return ((other, tuple(i for i, _ in wanted if i not in {b for _, b in late})),)


def _blocks(shape: Callable[[str], Shape | None], keys: Iterable[str], prefix: str) -> Blocks:
    """What stands at each number, in order of the numbers."""
    out: dict[int, set[tuple[str, Shape | None]]] = defaultdict(set)
    for key in keys:
        index, _, rest = key[len(prefix) :].partition(".")
        if not rest.endswith("num_batches_tracked"):  # torch fills it in where an old file lacks it
            out[int(index)].add((rest, shape(key)))
    return [(i, frozenset(block)) for i, block in sorted(out.items())]


def _aligned(
    saved: Sequence[tuple[int, Block]], wanted: Sequence[tuple[int, Block]], *, at_home: bool = True
) -> list[tuple[int, int]]:
    """Pairs of numbers of equal blocks, as many as can be in order; among as many, those whose numbers agree.

    Args:
        saved: Of the file.
        wanted: Of the model.
        at_home: Whether numbers that agree count; else the first that fit are taken.
    """
    stay = 1 / (len(saved) + len(wanted) + 1) if at_home else 0.0
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

"""What no other reading explains: layers that one side has and the other has not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from relight.facts.attribution.board import Board, Explanation, Shape


def match_rest(board: Board) -> None:
    """What is left over is a layer that one side has and the other has not."""
    for keys, kind, cause, present in (
        (board.missing, "added", "layer-added", board.entries.keys()),
        (board.unexpected, "removed", "layer-removed", {k for k, p in board.params.items() if p.persistent}),
    ):
        if keys:
            groups = top_modules(keys, present)
            equals = _equal_blocks(board, groups, present)
            board.add(
                Explanation(
                    kind=kind,
                    cause=cause,
                    missing=tuple(keys) if kind == "added" else (),
                    unexpected=tuple(keys) if kind == "removed" else (),
                    certain=not equals,  # which of several equal blocks it is no key can show
                    about={"groups": groups, "equals": equals},
                )
            )


def _equal_blocks(board: Board, groups: Iterable[str], present: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Containers of numbered, equal blocks of which one side has more: all that differs is the last numbers.

    Each with how many blocks the one side has and how many the other.

    Args:
        board: The shapes.
        groups: Modules of which one side has nothing.
        present: Keys of that side.
    """
    out: dict[str, tuple[str, int, int]] = {}
    there = set(present)
    for path in groups:
        container, _, number = path.rpartition(".")
        if not number.isdigit() or container in out:
            continue
        blocks = _signatures(board, f"{container}." if container else "")
        here = [n for n in blocks if any(f"{container}.{n}.{rest}" in there for rest, _ in blocks[n])]
        if here and int(number) > max(map(int, here)) and any(blocks[n] == blocks[number] for n in here):
            out[container] = (container, len(here), len(blocks))
    return tuple(out.values())


def _signatures(board: Board, prefix: str) -> dict[str, frozenset[tuple[str, Shape | None]]]:
    """What stands at each number of a container, in the file or else in the model."""
    out: dict[str, set[tuple[str, Shape | None]]] = defaultdict(set)
    for key in dict.fromkeys((*board.entries, *board.params)):
        number, _, rest = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and number.isdigit() and rest:
            out[number].add((rest, board.saved(key) or board.wanted(key)))
    return {number: frozenset(block) for number, block in out.items()}


def top_modules(keys: Iterable[str], present: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Keys grouped by the topmost module of which the other side has nothing; single tensors by themselves."""
    prefixes: set[str] = {""}
    for key in present:
        parts = key.split(".")
        prefixes.update(".".join(parts[:i]) for i in range(1, len(parts)))
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        parts = key.split(".")
        top = next((".".join(parts[:i]) for i in range(1, len(parts)) if ".".join(parts[:i]) not in prefixes), key)
        groups[top].append(key)
    return {top: tuple(ks) for top, ks in groups.items()}

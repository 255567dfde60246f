"""What no other reading explains: layers that one side has and the other has not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from relight.facts.attribution.board import Board, Explanation


def match_rest(board: Board) -> None:
    """What is left over is a layer that one side has and the other has not."""
    for keys, kind, cause, present in (
        (board.missing, "added", "layer-added", board.entries.keys()),
        (board.unexpected, "removed", "layer-removed", {k for k, p in board.params.items() if p.persistent}),
    ):
        if keys:
            groups = top_modules(keys, present)
            board.add(
                Explanation(
                    kind=kind,
                    cause=cause,
                    missing=tuple(keys) if kind == "added" else (),
                    unexpected=tuple(keys) if kind == "removed" else (),
                    about={"groups": groups},
                )
            )


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

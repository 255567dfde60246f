"""Layers of a Sequential at other positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from relight.facts.attribution.board import Board, Explanation, Shape


def match_index_shift(board: Board) -> None:
    """A layer inserted into or taken out of an nn.Sequential renumbers what follows it."""
    containers: dict[str, None] = {}
    for key in (*board.missing, *board.unexpected, *board.mismatched):
        parts = key.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                containers[".".join(parts[:i])] = None
                break
    for container in containers:
        module = board.modules.get(container)
        if module is None or not module.class_path.endswith("container.Sequential"):
            continue
        found = _shift(board, container + ".")
        if found is not None:
            board.add(found)


def _shift(board: Board, prefix: str) -> Explanation | None:
    def blocks(shape: Callable[[str], Shape | None], keys: Iterable[str]) -> dict[int, dict[str, Shape | None]]:
        out: dict[int, dict[str, Shape | None]] = defaultdict(dict)
        for key in keys:
            if key.startswith(prefix):
                index, _, rest = key[len(prefix) :].partition(".")
                if index.isdigit() and rest:
                    out[int(index)][rest] = shape(key)
        return dict(sorted(out.items()))

    saved = blocks(board.saved, board.entries)
    wanted = blocks(board.wanted, (k for k, p in board.params.items() if p.persistent))
    a, b = list(saved.items()), list(wanted.items())
    if len(a) < 2 or len(b) < 2 or len(a) > len(b):
        return None
    # Every block of the file must be found in the model in order; the longest common subsequence must be all of it.
    pairs: list[tuple[int, int]] = []
    j = 0
    for index, block in a:
        while j < len(b) and b[j][1] != block:
            j += 1
        if j == len(b):
            return None
        pairs.append((index, b[j][0]))
        j += 1
    if all(x == y for x, y in pairs):
        return None
    joined = [(f"{prefix}{x}.{rest}", f"{prefix}{y}.{rest}") for x, y in pairs for rest in saved[x] if x != y]
    touched = {k for pair in joined for k in pair}
    # Positions of the model that nothing in the file fills are layers of their own.
    fresh = {y for y, _ in b} - {y for _, y in pairs}
    new_keys = {f"{prefix}{y}.{rest}" for y in fresh for rest in wanted[y]}
    missing = tuple(k for k in board.missing if k in touched or k in new_keys)
    unexpected = tuple(k for k in board.unexpected if k in touched)
    mismatched = tuple(m for k, m in board.mismatched.items() if k in touched or k in new_keys)
    if not missing and not unexpected and not mismatched:
        return None
    return Explanation(
        kind="index-shift",
        cause="sequential-index-shift",
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
        pairs=tuple(joined),
        certain=False,  # equal blocks can be told apart by their order only
        about={
            "container": prefix.rstrip("."),
            "moves": tuple(p for p in pairs if p[0] != p[1]),
            "new": tuple(sorted(fresh)),
        },
    )

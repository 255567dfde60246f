"""Another variant of the same architecture, or another model altogether."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from relight.facts.attribution.board import Board, Explanation

_SHARE = 1 / 3  # of the matrices under equal names that must have other sizes
_FEW = 3
_STRANGE = 0.1  # share of either side that fits, below which file and model have nothing to do with each other


def match_variant(board: Board) -> None:
    """Sizes differ all over the model, and whole layers are there on one side only: another variant of it.

    ResNet-34 and ResNet-50, a base and a large transformer: one cause, whatever the number of keys.
    """
    if not board.mismatched or not (board.missing or board.unexpected):
        return
    matrices = [
        m
        for m in board.mismatched.values()
        if len(m.saved) > 1 and len(m.wanted) > 1 and sorted(m.saved) != sorted(m.wanted)  # turned is not another size
    ]
    common = len(matrices) + sum(len(board.saved(k) or ()) > 1 for k in board.diff.matched)
    layers = {m.key.rpartition(".")[0] for m in matrices}
    if len(layers) < _FEW or len(matrices) < _SHARE * common:
        return
    widths: Counter[tuple[int, int]] = Counter()
    for m in board.mismatched.values():
        if len(m.saved) == len(m.wanted):
            widths.update({(a, b) for a, b in zip(m.saved, m.wanted, strict=True) if a != b})
    board.add(
        Explanation(
            kind="variant",
            cause="size-mismatch-width-depth",
            missing=tuple(board.missing),
            unexpected=tuple(board.unexpected),
            mismatched=tuple(board.mismatched.values()),
            about={"widths": tuple(widths.most_common()), "depths": depths(board), "fits": len(board.diff.matched)},
        )
    )


def depths(board: Board) -> tuple[tuple[str, int, int], ...]:
    """(container, blocks in the file, blocks in the model) of numbered blocks, where the counts differ."""
    saved = _blocks(board.entries)
    wanted = _blocks(k for k, p in board.params.items() if p.persistent)
    out = []
    for container in saved.keys() & wanted.keys():
        a, b = len(saved[container]), len(wanted[container])
        if a != b and max(a, b) > 1:
            out.append((container, a, b))
    return tuple(sorted(out))


def _blocks(keys: Iterable[str]) -> dict[str, set[int]]:
    out: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        steps = key.split(".")
        for i, step in enumerate(steps[:-1]):
            if step.isdigit():
                out[".".join(steps[:i])].add(int(step))
    return out


def unrelated(board: Board) -> bool:
    """Whether file and model have so little in common that another class was probably meant."""
    diff = board.diff
    if not diff.missing or not diff.unexpected:
        return False
    known = len(diff.matched) + sum(len(e.pairs) for e in board.explanations)
    known += sum(len(g) for e in board.explanations if e.kind == "fused" for g in e.about["groups"].values())
    sides = min(len(board.entries), sum(p.persistent for p in board.params.values()))
    return known == 0 or (known < _STRANGE * sides and len(diff.mismatched) < _STRANGE * sides)

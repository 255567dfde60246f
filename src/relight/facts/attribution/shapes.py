"""Shape differences, sorted by what a person would call them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation, Shape
from relight.facts.keys import Mismatch

# torch/nn/modules/rnn.py: the rows are gates, four for an LSTM and three for a GRU.
_RECURRENT = re.compile(r"(^|\.)(weight|bias)_(ih|hh)(_l\d+(_reverse)?)?$")


def match_shapes(board: Board) -> None:
    """Sort shape differences by what a person would call them."""
    positions = re.compile(data.load("key_patterns")["position_names"]["pattern"])
    groups: dict[str, list[Mismatch]] = defaultdict(list)
    for m in board.mismatched.values():
        groups[_shape_kind(board, m, positions)].append(m)
    _promote_tables(board, groups)
    _follow_width(groups)
    if groups.get("rows"):
        rows = groups.pop("rows")
        kind = "head" if _is_head(board, rows) else "size"
        groups[kind] = [*groups.get(kind, []), *rows]
    causes = {
        "head": "size-mismatch-head",
        "vocabulary": "size-mismatch-vocab",
        "positions": "size-mismatch-pos-embed",
        "kernel": "size-mismatch-kernel",
        "transposed": "conv1x1-vs-linear",
        "channels": "size-mismatch-in-channels",
        "size": "size-mismatch-width-depth",
    }
    for kind, cause in causes.items():
        if groups.get(kind):
            board.add(Explanation(kind=kind, cause=cause, mismatched=tuple(groups[kind])))


def _shape_kind(board: Board, m: Mismatch, positions: re.Pattern[str]) -> str:
    saved, wanted = m.saved, m.wanted
    if _numel(saved) == _numel(wanted) and len(saved) >= 2 and saved == wanted[::-1]:
        return "transposed"
    if _numel(saved) == _numel(wanted) and _squeezed(saved) == _squeezed(wanted):
        return "transposed"
    if positions.search(m.key.lower()):
        return "positions"
    if len(saved) == len(wanted) >= 3 and saved[:2] == wanted[:2] and m.key.endswith("weight"):
        return "kernel"
    if len(saved) == len(wanted) >= 1 and saved[1:] == wanted[1:]:
        return "rows"
    if len(saved) == len(wanted) >= 3 and saved[:1] == wanted[:1] and saved[2:] == wanted[2:]:
        return "channels"
    return "size"


def _follow_width(groups: dict[str, list[Mismatch]]) -> None:
    """Tables and stems whose only difference is a width that runs through the model: no causes of their own."""
    widths = {pair for m in groups.get("size", []) for pair in _differing(m)}
    for kind in ("positions", "channels", "rows"):
        following = [m for m in groups.get(kind, []) if widths.issuperset(_differing(m))]
        if following:
            groups["size"] = [*groups["size"], *following]
            groups[kind] = [m for m in groups[kind] if m not in following]


def _differing(m: Mismatch) -> set[tuple[int, int]]:
    """(size in the file, size in the model) of the dimensions that differ; all of them where their number does."""
    if len(m.saved) != len(m.wanted):
        return {(-1, -1)}
    return {(a, b) for a, b in zip(m.saved, m.wanted, strict=True) if a != b}


def _numel(shape: Shape) -> int:
    n = 1
    for s in shape:
        n *= s
    return n


def _squeezed(shape: Shape) -> Shape:
    return tuple(s for s in shape if s != 1)


def _promote_tables(board: Board, groups: dict[str, list[Mismatch]]) -> None:
    """Rows of an embedding, and of the output layer that has as many: a vocabulary."""
    rows = groups.get("rows", [])
    tables = [m for m in rows if len(m.saved) == 2 and _class(board, m.key).endswith("Embedding")]
    if not tables:
        return
    sizes = {(m.saved[0], m.wanted[0]) for m in tables}
    # The output layer has as many rows; a bias may have them as columns ([1, vocabulary]).
    for kind in ("rows", "size"):
        following = [m for m in groups.get(kind, []) if len(d := _differing(m)) == 1 and d <= sizes]
        groups["vocabulary"] += following
        groups[kind] = [m for m in groups.get(kind, []) if m not in following]


def _class(board: Board, key: str) -> str:
    module = board.modules.get(key.rpartition(".")[0])
    return "" if module is None else module.class_path


def _is_head(board: Board, rows: Sequence[Mismatch]) -> bool:
    """Whether only output layers differ: no module behind them takes what they give out."""
    owners = {m.key.rpartition(".")[0] for m in rows}
    order = list(dict.fromkeys(k.rpartition(".")[0] for k in board.params if board.params[k].persistent))
    last = max((i for i, o in enumerate(order) if o in owners), default=-1)
    if any(_RECURRENT.search(m.key) for m in rows):
        return False
    weights = [m for m in rows if len(m.saved) >= 2]
    behind = [board.wanted(k) or () for k in board.params if k.rpartition(".")[0] in order[last + 1 :]]
    if any(len(s) == 2 and s[1] in {m.wanted[0] for m in weights} for s in behind):
        return False
    sizes = {(m.saved[0], m.wanted[0]) for m in rows}
    return bool(weights) and len(sizes) <= max(1, len(weights)) and len(owners) <= max(2, len(order) // 4)

"""What quantisation stores beside the weights, or in their place."""

from __future__ import annotations

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation


def match_quantised(board: Board) -> None:
    """Scales, observers and packed weights that only one side has; the weights of the same layers go with them."""
    for kind in data.load("key_patterns")["quantised"]:
        segments, beside = set(kind["segments"]), set(kind["beside"])
        for side, keys in (("file", board.unexpected), ("model", board.missing)):
            layers = {owner for key in keys if (owner := _owner(key, segments)) is not None}
            if not layers:
                continue
            mine = {
                key
                for key in (*board.unexpected, *board.missing, *board.mismatched)
                if _owner(key, segments) is not None
                or (key.rpartition(".")[0] in layers and key.rpartition(".")[2] in beside)
            }
            board.add(
                Explanation(
                    kind="quantised",
                    cause=kind["cause"],
                    missing=tuple(k for k in board.missing if k in mine),
                    unexpected=tuple(k for k in board.unexpected if k in mine),
                    mismatched=tuple(m for k, m in board.mismatched.items() if k in mine),
                    about={"side": side, "by": kind["by"], "layers": tuple(sorted(layers))},
                )
            )


def _owner(key: str, segments: set[str]) -> str | None:
    """The layer that a key of the quantisation belongs to; None for another key."""
    steps = key.split(".")
    at = next((i for i, step in enumerate(steps) if step in segments), None)
    if at is None:
        return None
    # bitsandbytes hangs its state below the weight: layer.weight.absmax.
    return ".".join(steps[: at - 1] if at and steps[at - 1] in ("weight", "bias") else steps[:at])

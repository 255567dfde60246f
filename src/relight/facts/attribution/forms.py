"""The same numbers in another form: weight_norm, other normalisation layers."""

from __future__ import annotations

from collections import defaultdict

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation

_WEIGHT_NORM_FORMS = (
    ("plain", {"weight": ("weight",)}),
    ("old", {"weight_g": (), "weight_v": ()}),
    ("new", {"parametrizations.weight.original0": (), "parametrizations.weight.original1": ()}),
)


def match_weight_norm(board: Board) -> None:
    """weight_norm in its old, its new and its folded form."""
    forms = {name: tuple(keys) for name, keys in _WEIGHT_NORM_FORMS}
    for saved, wanted in ((a, b) for a in forms for b in forms if a != b):
        prefixes = [
            k.removesuffix(forms[saved][0])
            for k in board.unexpected
            if k.endswith("." + forms[saved][0]) or k == forms[saved][0]
        ]
        for prefix in prefixes:
            old = tuple(prefix + n for n in forms[saved])
            new = tuple(prefix + n for n in forms[wanted])
            if all(k in board.unexpected for k in old) and all(k in board.missing for k in new):
                # The direction has the weight's shape in every form.
                if board.saved(old[-1]) != board.wanted(new[-1]):
                    continue
                board.add(
                    Explanation(
                        kind="weight-norm",
                        cause="weight-norm-parametrizations",
                        missing=new,
                        unexpected=old,
                        pairs=tuple(zip(old, new, strict=True)) if len(old) == len(new) else (),
                        about={"saved": saved, "wanted": wanted, "module": prefix.rstrip(".")},
                    )
                )


def match_norm_kind(board: Board) -> None:
    """Running statistics on one side only while weight and bias of the same module fit."""
    stats = data.load("key_patterns")["running_stats"]
    for source, side in ((board.unexpected, "file"), (board.missing, "model")):
        groups: dict[str, list[str]] = defaultdict(list)
        for key in source:
            module, _, name = key.rpartition(".")
            if name in stats["names"]:
                groups[module].append(key)
        hit = {
            module: keys
            for module, keys in groups.items()
            if {k.rpartition(".")[2] for k in keys} >= {"running_mean", "running_var"}
            and f"{module}.weight" in board.entries
            and f"{module}.weight" in board.params
        }
        if hit:
            keys = tuple(k for keys in hit.values() for k in keys)
            board.add(
                Explanation(
                    kind="norm-kind",
                    cause=stats["cause"],
                    missing=keys if side == "model" else (),
                    unexpected=keys if side == "file" else (),
                    about={"modules": tuple(hit), "side": side},
                )
            )

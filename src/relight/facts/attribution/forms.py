"""The same numbers in another form: weight_norm, fused projections, other normalisation layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

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


def match_fused(board: Board) -> None:
    """Several projections in the file are one in the model, or the reverse: first dimensions add up, names agree."""
    for parts_side, whole_side, direction in (
        (board.unexpected, board.missing, "fuse"),
        (board.missing, board.unexpected, "split"),
    ):
        part_shape = board.saved if direction == "fuse" else board.wanted
        whole_shape = board.wanted if direction == "fuse" else board.saved
        taken: dict[str, tuple[str, ...]] = {}
        for whole in list(whole_side):
            shape = whole_shape(whole)
            parent, module, leaf = _split3(whole)
            if not shape:
                continue
            siblings: dict[str, str] = {}
            for part in parts_side:
                p_parent, p_module, p_leaf = _split3(part)
                if p_parent == parent and p_leaf.replace("_", "") == leaf.replace("_", ""):
                    siblings[p_module] = part
            ordered = _qkv_order(module, siblings)
            shapes = [part_shape(p) for p in ordered]
            fitting = [s for s in shapes if s and s[1:] == shape[1:]]
            if len(ordered) >= 2 and len(fitting) == len(ordered) and sum(s[0] for s in fitting) == shape[0]:
                taken[whole] = tuple(ordered)
        if taken:
            parts = tuple(p for ps in taken.values() for p in ps)
            board.add(
                Explanation(
                    kind="fused",
                    cause="mha-inproj-split" if any("in_proj_" in w for w in taken) else "fused-vs-split-qkv",
                    missing=tuple(taken) if direction == "fuse" else parts,
                    unexpected=parts if direction == "fuse" else tuple(taken),
                    certain=False,  # the order of the parts is by their names, which no shape can confirm
                    about={"groups": dict(taken), "direction": direction},
                )
            )


def _split3(key: str) -> tuple[str, str, str]:
    """``a.b.qkv.weight`` → (``a.b``, ``qkv``, ``weight``); ``a.in_proj_weight`` → (``a``, ``in_proj``, ``weight``)."""
    owner, _, leaf = key.rpartition(".")
    parent, _, module = owner.rpartition(".")
    if leaf in ("in_proj_weight", "in_proj_bias"):
        return owner, "in_proj", leaf.removeprefix("in_proj_")
    return parent, module, leaf


_ROLES = ("q", "k", "v")


def _qkv_order(whole: str, siblings: Mapping[str, str]) -> list[str]:
    """Parts in the order q, k, v; empty where the names do not play these roles."""
    roles: dict[str, str] = {}
    for module, key in siblings.items():
        role = re.sub(r"(_?(proj|projection|lin|linear|fc))$|^(to|w|fc|lin|proj)_?", "", module.lower())
        role = {"query": "q", "key": "k", "value": "v", "queries": "q", "keys": "k", "values": "v"}.get(role, role)
        if role in _ROLES and role not in roles:
            roles[role] = key
    wanted = (
        "kv"
        if whole.lower().strip("_").startswith("kv") or (whole.lower().endswith("kv") and "q" not in whole.lower())
        else "qkv"
    )
    return [roles[r] for r in wanted] if all(r in roles for r in wanted) else []

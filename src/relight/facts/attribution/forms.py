"""The same weight in another form: reparametrised, or under another kind of normalisation layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation


def match_forms(board: Board) -> None:
    """One weight in different forms: weight_norm, spectral_norm, pruning, any parametrization, or plain.

    A form is the set of names under which one parameter is stored. Both sides must have a whole form of the same
    parameter, and where both keep a tensor of the weight's own shape those shapes must agree.
    """
    forms = data.load("reparametrisations")["forms"]
    saved, wanted = _found(board.unexpected, forms), _found((*board.missing, *board.filled), forms)
    # In several forms the plain weight stays beside the rest under its own name, and then fits.
    for parameter, (form, keys) in {**saved, **wanted}.items():
        if parameter in saved and parameter in wanted:
            (mine, old), (theirs, new) = saved[parameter], wanted[parameter]
        elif parameter in saved and parameter in board.diff.matched:
            (mine, old), (theirs, new) = (form, keys), ("plain", ())
        elif parameter in wanted and parameter in board.diff.matched:
            (mine, old), (theirs, new) = ("plain", ()), (form, keys)
        else:
            continue
        if mine == theirs or not _same_shape(board, parameter, forms, (mine, old), (theirs, new)):
            continue
        reparametrised = mine if mine != "plain" else theirs
        board.add(
            Explanation(
                kind="form",
                cause=forms[reparametrised]["cause"],
                missing=tuple(k for k in new if k in board.missing),
                unexpected=tuple(old),
                pairs=tuple(zip(old, new, strict=True)) if forms[mine].get("renames_to") == theirs else (),
                about={"saved": mine, "wanted": theirs, "parameter": parameter},
            )
        )


def _found(keys: Iterable[str], forms: dict[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By parameter (``layer.weight``): the form in which keys store it, and those keys in the form's order."""
    listed = dict.fromkeys(keys)
    out: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, form in forms.items():
        first = form["names"][0]
        pattern = re.compile(r"(?P<owner>(?:.*\.)?)" + re.escape(first).replace(r"\{name\}", r"(?P<name>[A-Za-z]\w*?)"))
        for key in listed:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            parameter = match["owner"] + match["name"]
            every = tuple(match["owner"] + n.format(name=match["name"]) for n in form["names"])
            if all(k in listed for k in every) and len(every) > len(out.get(parameter, ("", ()))[1]):
                out[parameter] = (name, every)
    return out


Stored = tuple[str, tuple[str, ...]]


def _same_shape(board: Board, parameter: str, forms: dict[str, Any], saved: Stored, wanted: Stored) -> bool:
    """Whether the tensors that have the weight's own shape agree."""

    def main(form: str, keys: tuple[str, ...]) -> str:
        return keys[forms[form]["shape_of"]] if keys else parameter

    return board.saved(main(*saved)) == board.wanted(main(*wanted))


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

"""Auxiliary state that is not learnt."""

from __future__ import annotations

import re
from collections import defaultdict

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation

# torch/nn/parameter.py: a parameter that requires a gradient has floating point or complex values.
_NEVER_LEARNT = frozenset({"int8", "int16", "int32", "int64", "bool"})


def match_buffers(board: Board) -> None:
    """Auxiliary state: loss weights, metric states, profiler counters, constants of libraries."""
    patterns = data.load("key_patterns")
    loss, metrics = patterns["loss_modules"], patterns["metrics"]
    counters = set(patterns["profiler_counters"]["names"])
    library = {b["name"]: b["cause"] for b in patterns["library_buffers"]}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in (*board.missing, *board.unexpected):
        owner, _, leaf = key.rpartition(".")
        last = owner.rpartition(".")[2].lower()
        if leaf in counters:
            groups[("counter", patterns["profiler_counters"]["cause"])].append(key)
        elif leaf in library and (leaf != "num_batches_tracked" or _is_old(board, owner) or _is_stray(board, key)):
            groups[("library-buffer", library[leaf])].append(key)
        elif leaf in loss["states"] and any(re.search(loss["pattern"], s.lower()) for s in owner.split(".")):
            groups[("loss-buffer", loss["cause"])].append(key)
        elif (
            leaf in metrics["states"]
            and (re.search(metrics["modules"], owner.lower()) or _is_metric(board, owner))
            and last
        ):
            groups[("metric-state", metrics["cause"])].append(key)
    told = {key for keys in groups.values() for key in keys}
    for key in board.unexpected:
        param, entry = board.params.get(key), board.entries.get(key)
        if key in told:
            continue
        if key.rpartition(".")[2] == "_extra_state":
            groups[("extra-state", "extra-state-keys")].append(key)
        elif param is not None and not param.persistent:
            groups[("no-longer-saved", "buffer-set-changed")].append(key)
        elif entry is not None and entry.dtype in _NEVER_LEARNT and _is_old(board, key.rpartition(".")[0]):
            groups[("buffer", "buffer-set-changed")].append(key)
    for key in board.missing:
        # What the file has more is not known to be a buffer; what the model has more says so itself.
        owner = key.rpartition(".")[0]
        new = owner != "" and not _is_old(board, owner)
        if key in told:
            continue
        if board.params[key].kind == "extra_state":
            groups[("extra-state", "extra-state-keys")].append(key)
        elif board.params[key].kind == "buffer" and not new:
            groups[("buffer", "buffer-set-changed")].append(key)
    for (kind, cause), keys in groups.items():
        board.add(
            Explanation(
                kind=kind,
                cause=cause,
                missing=tuple(k for k in keys if k in board.missing),
                unexpected=tuple(k for k in keys if k in board.unexpected),
            )
        )


def _is_old(board: Board, owner: str) -> bool:
    """Whether both sides have something of a module: buffers of a layer that is new or gone are part of that layer."""
    return owner in board.saved_modules and owner in board.wanted_modules


def _is_stray(board: Board, key: str) -> bool:
    """Whether the file has nothing but a counter of a module: a batch norm has its statistics beside it."""
    prefix = key.removesuffix("num_batches_tracked")
    return key in board.entries and not any(k.startswith(prefix) for k in board.entries if k != key)


def _is_metric(board: Board, owner: str) -> bool:
    module = board.modules.get(owner)
    return module is not None and module.class_path.startswith("torchmetrics.")

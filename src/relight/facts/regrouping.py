"""An optimizer whose parameters are in other groups than in the file: which options each of the new groups gets.

States are by parameter, so they can be given out whatever the groups are. Options are by group: they stay those of the
file, as in any resume, save for those by which the groups of today differ, which is what they were made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relight.core.edits import Edit, SetEntry
from relight.core.objects import ListNode, Value, mapping_get, mapping_pairs
from relight.core.target import OptimizerSpec
from relight.facts.describe import listed
from relight.facts.lightning import LightningView
from relight.facts.schedulers import saved_schedulers

# Entries of a scheduler's state with a value for each group. Source: torch 2.13, torch/optim/lr_scheduler.py.
_BY_GROUP = frozenset({"base_lrs", "_last_lr", "min_lrs", "lr_lambdas"})
# What schedulers and torch itself put into a group.
_NOT_OPTIONS = frozenset({"params", "param_names"})


@dataclass(frozen=True, slots=True)
class Regrouping:
    """Where the options of the new groups come from.

    Attributes:
        options_of: For each new group, the group of the file whose options it has.
        edits: Options by which the groups of today differ, and what schedulers keep for each group.
        refused: Why none can be told; empty where they can.
    """

    options_of: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    refused: str = ""


def regroup(
    view: LightningView, optimizer: int, theirs: OptimizerSpec, members: Sequence[Sequence[int]], sizes: Sequence[int]
) -> Regrouping:
    """Options for the groups of today.

    Args:
        view: The file.
        optimizer: Which of its optimizers.
        theirs: What ``configure_optimizers`` makes.
        members: For each new group, positions in the file of the parameters whose states it gets.
        sizes: Number of parameters in each group of the file.
    """
    every = view.get("optimizer_states")
    groups = mapping_get(every.items[optimizer], "param_groups") if isinstance(every, ListNode) else None
    saved = [_options(g) for g in groups.items] if isinstance(groups, ListNode) else []
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    options_of: list[int] = []
    for positions in members:
        homes = sorted({next(i for i in range(len(sizes)) if bounds[i] <= p < bounds[i + 1]) for p in positions})
        homes = homes or list(range(len(sizes)))
        other = sorted(
            {k for i in homes for k in {*saved[i], *saved[homes[0]]} if saved[i].get(k) != saved[homes[0]].get(k)}
        )
        if other:
            return Regrouping(refused=f"parameters of groups with another {listed(other)} are in one group now")
        options_of.append(homes[0])
    edits: list[Edit] = []
    own = sorted({k for g in theirs.groups for k in g.options if g.options[k] != theirs.groups[0].options.get(k)})
    scheduled = saved_schedulers(view)
    if "lr" in own and scheduled:
        return Regrouping(
            refused="its groups have learning rates of their own, which the file's scheduler does not know"
        )
    for i, group in enumerate(theirs.groups):
        for name in own:
            value = group.options.get(name)
            if not isinstance(value, (bool, int, float)) or name not in saved[options_of[i]]:
                return Regrouping(refused=f"its groups differ in {name}, which is no plain number")
            if saved[options_of[i]][name] != value:
                edits.append(SetEntry(("optimizer_states", str(optimizer), "param_groups", str(i), name), value))
    for n, state in enumerate(scheduled):
        for entry, kept in mapping_pairs(state) or ():
            name = str(entry)
            if not isinstance(kept, ListNode):
                continue
            if name not in _BY_GROUP:
                return Regrouping(refused=f"the scheduler in the file keeps {name}, which may be for each group")
            values = [v for v in kept.items if v is None or isinstance(v, (int, float))]
            if len(kept.items) != len(sizes) or len(values) != len(sizes):
                return Regrouping(refused=f"the scheduler in the file does not keep {name} for each group")
            edits.append(SetEntry(("lr_schedulers", str(n), name), [values[i] for i in options_of]))
    return Regrouping(tuple(options_of), tuple(edits))


def _options(group: Value) -> dict[str, object]:
    return {k: _plain(v) for k, v in mapping_pairs(group) or () if isinstance(k, str) and k not in _NOT_OPTIONS}


def _plain(value: Value) -> object:
    """Something that can be compared: what is no plain data is only equal to itself."""
    if isinstance(value, ListNode):
        return [_plain(v) for v in value.items]
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else id(value)

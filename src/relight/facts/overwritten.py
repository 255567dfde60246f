"""Options of optimizers that the code sets and a resume replaces by those of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from relight.core.edits import Plain, SetEntry
from relight.core.objects import ListNode, Value, mapping_get, mapping_has
from relight.core.target import GroupSpec, OptimizerSpec, TrainingSpec
from relight.facts.lightning import LightningView
from relight.facts.optimizers import Saved, saved_optimizers

_NAMES = {"lr": ("lr", "learning_rate", "base_lr")}


@dataclass(frozen=True, slots=True)
class Overwritten:
    """An option that has another value in the file than ``configure_optimizers`` gives it.

    Attributes:
        optimizer: Which of them.
        name: ``lr``, ``weight_decay`` ...
        saved: Its value in each group of the file: ``lr`` is the one that schedulers begin with, where there are any.
        now: Its value in each group of the code.
        shown: What shows that the training had begun with the value of the file, and that it is the code that changed;
            empty where the training may have changed it itself, as a warm-up does.
    """

    optimizer: int
    name: str
    saved: tuple[object, ...]
    now: tuple[object, ...]
    shown: str


def overwritten(view: LightningView, training: TrainingSpec) -> Iterator[Overwritten]:
    """Options that differ, optimizer by optimizer; of optimizers with as many groups.

    Args:
        view: The file.
        training: What ``configure_optimizers`` makes with the hyper_parameters of the file.
    """
    told = dict(view.hyper_parameters)
    for i, (mine, theirs) in enumerate(zip(saved_optimizers(view) or (), training.optimizers, strict=False)):
        for name, saved in mine.values.items():
            now = tuple(_begun(name, g) for g in theirs.groups)
            if len(now) == len(saved) and saved != now and None not in now:
                yield Overwritten(i, name, saved, now, _shown(name, mine, theirs, told))


def _begun(name: str, group: GroupSpec) -> object:
    """A value of the code; of ``lr`` the one that schedulers begin with, as a warm-up has changed the other at once."""
    first = group.options.get("initial_lr") if name == "lr" else None
    return group.options.get(name) if first is None else first


def _shown(name: str, mine: Saved, theirs: OptimizerSpec, told: dict[str, Value]) -> str:
    if name == "lr" and "initial_lr" in mine.options and all("initial_lr" in g.options for g in theirs.groups):
        return "initial_lr, which no scheduler changes"
    first = mine.values[name][0]
    if all(v == first for v in mine.values[name]):
        for known in _NAMES.get(name, (name,)):
            value = told.get(known)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == first:
                return f"{known}={value!r} in the hyper_parameters of the file"
    return ""


def edits(view: LightningView, training: TrainingSpec, found: Overwritten) -> tuple[SetEntry, ...]:
    """What gives the groups of the file the value of the code, and, for ``lr``, the schedulers of this optimizer."""
    out: list[SetEntry] = []
    states = view.get("optimizer_states")
    state = states.items[found.optimizer] if isinstance(states, ListNode) else None
    groups = mapping_get(state, "param_groups")
    place = ("optimizer_states", str(found.optimizer), "param_groups")
    for g, group in enumerate(groups.items if isinstance(groups, ListNode) else ()):
        value = found.now[g]
        if not isinstance(value, (bool, int, float, str)):
            return ()
        names = ("lr", "initial_lr") if found.name == "lr" else (found.name,)
        out += [
            SetEntry((*place, str(g), name), value)
            for name in names
            if mapping_has(group, name) and mapping_get(group, name) != value
        ]
    schedulers = view.get("lr_schedulers")
    rates: list[Plain] = [v for v in found.now if isinstance(v, (int, float))]
    if found.name == "lr" and len(training.optimizers) == 1 and isinstance(schedulers, ListNode):
        out += [
            SetEntry(("lr_schedulers", str(i), name), rates)
            for i, one in enumerate(schedulers.items)
            for name in ("base_lrs", "_last_lr")
            if isinstance(kept := mapping_get(one, name), ListNode) and len(kept.items) == len(rates)
        ]
    return tuple(out)

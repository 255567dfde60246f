"""Learning rate schedulers of a file beside those that ``configure_optimizers`` makes.

Lightning pairs them by position and stops where one side ends; torch lays most states over the attributes of whatever
class is there. What tells classes apart are the entries of the state: the class itself is not in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from relight.core.edits import SetEntry
from relight.core.objects import ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.core.target import SchedulerSpec, TrainingSpec
from relight.facts import data
from relight.facts.lightning import LightningView
from relight.facts.versions import at_least

# What schedulers put beside the options of an optimizer. Source: torch 2.13, torch/optim/lr_scheduler.py, swa_utils.py.
OF_GROUPS = frozenset({"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"})


@dataclass(frozen=True, slots=True)
class Pairing:
    """A scheduler of the file and the one that gets its state.

    Attributes:
        index: Of both, in order.
        was: Classes that have such a state, as far as they are known: ``StepLR``.
        now: The class that gets it.
        foreign: Entries that the class of today does not have.
        taken: Entries of another meaning, which it takes over: it has settings of the same names.
        raises: (exception, text) of what ``load_state_dict`` raises; None where it raises nothing.
    """

    index: int
    was: tuple[str, ...]
    now: str
    foreign: tuple[str, ...]
    taken: tuple[str, ...]
    raises: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a scheduler has put into the groups of its optimizer, and a resume takes away again: the file's have none.

    Attributes:
        name: The class: ``OneCycleLR``.
        first: What it asks for first.
        names: All that the groups of the file lack.
        edits: What gives the groups of the file these entries, with the values of the code.
    """

    name: str
    first: str
    names: tuple[str, ...]
    edits: tuple[SetEntry, ...]


@cache
def _classes() -> dict[str, Mapping[str, Any]]:
    return {c["name"]: c for c in data.load("schedulers")["classes"]}


@cache
def settings() -> frozenset[str]:
    """All entries that tell classes apart."""
    return frozenset(s for c in _classes().values() for s in c["settings"])


def saved_schedulers(view: LightningView) -> tuple[Value, ...]:
    """States of the schedulers of a file, in order; empty where it has none."""
    listed = view.get("lr_schedulers")
    return tuple(listed.items) if isinstance(listed, ListNode) else ()


def kinds(state: Value) -> tuple[str, ...]:
    """Classes that write such a state."""
    mine = _keys(state) & settings()
    return tuple(name for name, c in _classes().items() if mine and mine == set(c["settings"]))


def changed(view: LightningView, specs: Sequence[SchedulerSpec], torch: str | None) -> list[Pairing]:
    """Schedulers whose state in the file is that of another class.

    Args:
        view: The file.
        specs: What ``configure_optimizers`` makes.
        torch: Version that restores them; None where it is not known.
    """
    out = []
    for i, (state, spec) in enumerate(zip(saved_schedulers(view), specs, strict=False)):
        mine, theirs = _keys(state), spec.keys
        name = _torch_name(spec.class_path)
        if not theirs or not mine or mine & settings() == theirs & settings():
            continue
        raises = _raises(name, state, torch)
        # Nothing in it tells a class: only what is asked for can be lacking. And a class of the user's own may have got
        # or lost an argument; what it has in common says nothing either way.
        if raises is None and (not mine & settings() or (name is None and not kinds(state))):
            continue
        out.append(
            Pairing(
                index=i,
                was=kinds(state),
                now=spec.class_path.rpartition(".")[2],
                foreign=tuple(sorted(mine - theirs)),
                taken=tuple(sorted(mine & theirs & settings())),
                raises=raises,
            )
        )
    return out


def begun(view: LightningView) -> tuple[SetEntry, ...]:
    """What gives the optimizers' groups the learning rate that schedulers began with, where they have brought it elsewhere.

    A scheduler that begins anew multiplies what it finds in the groups, and a resume puts that of the file there.
    """
    states = view.get("optimizer_states")
    out = []
    for i, state in enumerate(states.items if isinstance(states, ListNode) else ()):
        groups = mapping_get(state, "param_groups")
        for g, group in enumerate(groups.items if isinstance(groups, ListNode) else ()):
            first = mapping_get(group, "initial_lr")
            if isinstance(first, (int, float)) and mapping_get(group, "lr") != first:
                out.append(SetEntry(("optimizer_states", str(i), "param_groups", str(g), "lr"), first))
    return tuple(out)


def lacking(view: LightningView, training: TrainingSpec) -> Lacking | None:
    """Entries of the optimizers' groups that a scheduler of today looks up, where a resume takes them away.

    ``Optimizer.load_state_dict`` replaces groups by those of the file, after the constructor of the scheduler.

    Args:
        view: The file.
        training: What ``configure_optimizers`` makes.
    """
    asking = {_torch_name(s.class_path) or "": s for s in training.schedulers}
    wanted = {name: c["looks_up"] for name, c in _classes().items() if name in asking and "looks_up" in c}
    states = view.get("optimizer_states")
    if not wanted or not isinstance(states, ListNode) or len(states.items) != len(training.optimizers):
        return None
    edits: list[SetEntry] = []
    gone: set[str] = set()
    for i, (state, optimizer) in enumerate(zip(states.items, training.optimizers, strict=True)):
        groups = mapping_get(state, "param_groups")
        listed = groups.items if isinstance(groups, ListNode) else []
        if len(listed) != len(optimizer.groups):
            continue
        for g, (group, now) in enumerate(zip(listed, optimizer.groups, strict=True)):
            place = ("optimizer_states", str(i), "param_groups", str(g))
            for name in sorted((OF_GROUPS | {"lr"}) & now.options.keys()):
                if not mapping_has(group, name):
                    gone.add(name)
                if mapping_get(group, name) != now.options[name]:  # initial_lr may be that of another schedule
                    edits.append(SetEntry((*place, name), now.options[name]))
    for name, entries in wanted.items():
        first = next((e for e in entries if e in gone), None)
        if first is not None:
            return Lacking(name, first, tuple(sorted(gone)), tuple(edits))
    return None


def other_values(view: LightningView, specs: Sequence[SchedulerSpec]) -> list[tuple[int, str, object, object]]:
    """Settings of schedulers of the same class that differ: (index, name, in the file, in the code)."""
    out: list[tuple[int, str, object, object]] = []
    for i, (state, spec) in enumerate(zip(saved_schedulers(view), specs, strict=False)):
        if _keys(state) & settings() != spec.keys & settings():
            continue
        for name in sorted(spec.options.keys() & settings()):
            saved, now = mapping_get(state, name), spec.options[name]
            if isinstance(saved, (int, float)) and isinstance(now, (int, float)) and saved != now:
                out.append((i, name, saved, now))
    return out


def _raises(name: str | None, state: Value, torch: str | None) -> tuple[str, str] | None:
    needs = _classes().get(name or "", {}).get("needs")
    since = _classes().get(name or "", {}).get("since")
    if needs is not None and not mapping_has(state, needs) and (since is None or at_least(torch, since) is not False):
        return "KeyError", repr(needs)
    mode = mapping_get(state, "mode")
    if name == "ReduceLROnPlateau" and isinstance(mode, str) and mode not in ("min", "max"):
        return "ValueError", f"mode {mode} is unknown!"
    return None


def _keys(state: Value) -> frozenset[str]:
    return frozenset(k for k, _ in mapping_pairs(state) or () if isinstance(k, str))


def _torch_name(class_path: str) -> str | None:
    """Name of a class of torch; None for any other."""
    module, _, name = class_path.rpartition(".")
    return name if module in ("torch.optim.lr_scheduler", "torch.optim.swa_utils") else None

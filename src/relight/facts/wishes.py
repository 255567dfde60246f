"""What a user wants of a resume beyond what is wrong: parts of it only, or other options of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relight.core.edits import Edit, SetEntry
from relight.core.errors import UsageError
from relight.core.objects import ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.facts.lightning import LightningView
from relight.facts.resume import RENAMED, Point, fit_loop, written_by
from relight.facts.schedulers import begun, saved_schedulers, settings
from relight.facts.versions import at_least

# Source: torch 2.13, torch/optim: what the constructors refuse.
_NOT_NEGATIVE = frozenset({"lr", "weight_decay", "eps", "momentum"})
PARTS = ("weights", "optimizer", "loops", "callbacks", "schedulers")


def keep(view: LightningView, parts: Sequence[str], lightning: str | None) -> list[Edit]:
    """Edits after which a resume restores these parts only, and begins the others anew.

    Args:
        view: The file.
        parts: Of `PARTS`.
        lightning: The version that resumes; None where it is not known.

    Raises:
        UsageError: There is no such part, or a resume is not possible without one that is not kept.
    """
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"there is no part {part!r} to keep", f"One of {', '.join(PARTS)}.")
    if "weights" not in parts:
        raise UsageError("a resume restores the weights in any case", f"--keep weights,{','.join(parts)}")
    edits: list[Edit] = []
    if "schedulers" in parts and "optimizer" not in parts and saved_schedulers(view):
        raise UsageError(
            "schedulers go on from the learning rates in the optimizer's state",
            "Keep optimizer as well, or leave schedulers out.",
        )
    if "schedulers" not in parts and "optimizer" in parts:
        edits += begun(view)
    for part, key in (("optimizer", "optimizer_states"), ("schedulers", "lr_schedulers")):
        # Lightning asks for the entries, and takes empty ones.
        if part not in parts and _length(view.get(key)) != 0:
            edits.append(SetEntry((key,), []))
    if "callbacks" not in parts and view.has("callbacks"):
        edits.append(SetEntry(("callbacks",), {}))
    if "loops" not in parts:
        wrote = written_by(view)
        old = at_least(wrote, RENAMED) is not True or at_least(lightning, RENAMED) is False
        edits.append(SetEntry(("loops",), {"fit_loop": fit_loop(Point(0, 0), 0, old=old)}))
        edits += [SetEntry((key,), 0) for key in ("epoch", "global_step") if view.get(key) != 0]
    return edits


def options(view: LightningView, values: Mapping[str, object]) -> list[Edit]:
    """Edits that give options of all optimizers other values.

    Args:
        view: The file.
        values: ``optimizer.lr``, ``scheduler.gamma`` and the like, with a number or a truth value.

    Raises:
        UsageError: The file's optimizers, or schedulers, have no such option.
    """
    edits: list[Edit] = []
    for name, value in values.items():
        owner, _, option = name.partition(".")
        if owner not in ("optimizer", "scheduler") or not option:
            raise UsageError(
                f"--set {name}: there is no such option",
                "One of an optimizer or a scheduler: --set optimizer.lr=0.001, --set scheduler.gamma=0.5",
            )
        if not isinstance(value, (int, float)):
            raise UsageError(f"--set {name}: {value!r} is no number and no truth value")
        if option in _NOT_NEGATIVE and value < 0:
            raise UsageError(f"--set {name}: {value!r} is negative, which no optimizer of torch takes")
        if owner == "scheduler":
            edits += _settings(view, name, option, value)
            continue
        found = False
        for i, g, group in _groups(view):
            place = ("optimizer_states", str(i), "param_groups", str(g))
            if not mapping_has(group, option):
                continue
            if type(mapping_get(group, option)) not in (int, float, bool):
                raise UsageError(f"--set {name}: it is no plain number in the file")
            found = True
            names = [option, "initial_lr"] if option == "lr" and mapping_has(group, "initial_lr") else [option]
            edits += [SetEntry((*place, n), value) for n in names if mapping_get(group, n) != value]
        if not found:
            known = sorted({k for _, _, group in _groups(view) for k in _plain_options(group)})
            hint = f"It has {', '.join(known)}." if known else "The file has no state of an optimizer."
            raise UsageError(f"--set {name}: the optimizer in the file has no {option}", hint)
        if option == "lr":
            edits += _schedulers(view, value)
    return edits


# What these mean is worked out once, when the scheduler is made, and kept beside them.
_WORKED_OUT = frozenset({"total_steps", "total_size", "step_ratio"})


def _settings(view: LightningView, name: str, option: str, value: bool | float) -> list[Edit]:
    """A setting of all schedulers that have it."""
    plain = [
        {k for k, v in mapping_pairs(state) or () if isinstance(k, str) and k in settings() and type(v) in (int, float)}
        for state in saved_schedulers(view)
    ]
    if option in _WORKED_OUT:
        raise UsageError(f"--set {name}: what follows from it is in the file as well", "--keep weights,optimizer,loops")
    if not any(option in names for names in plain):
        known = sorted(set().union(*plain) - _WORKED_OUT)
        hint = f"It has {', '.join(known)}." if known else "The file has no such settings."
        raise UsageError(f"--set {name}: the scheduler in the file has no {option}", hint)
    return [SetEntry(("lr_schedulers", str(i), option), value) for i, names in enumerate(plain) if option in names]


def _schedulers(view: LightningView, lr: bool | float) -> Iterator[Edit]:
    """Schedulers compute from values of their own, which a resume restores as well."""
    schedulers = view.get("lr_schedulers")
    for i, state in enumerate(schedulers.items if isinstance(schedulers, ListNode) else ()):
        for name in ("base_lrs", "_last_lr"):
            listed = mapping_get(state, name)
            if isinstance(listed, ListNode) and all(isinstance(v, (int, float)) for v in listed.items):
                yield SetEntry(("lr_schedulers", str(i), name), [lr] * len(listed.items))


def _groups(view: LightningView) -> Iterator[tuple[int, int, Value]]:
    states = view.get("optimizer_states")
    for i, state in enumerate(states.items if isinstance(states, ListNode) else ()):
        groups = mapping_get(state, "param_groups")
        for g, group in enumerate(groups.items if isinstance(groups, ListNode) else ()):
            yield i, g, group


def _plain_options(group: Value) -> Iterator[str]:
    for key, value in mapping_pairs(group) or ():
        if isinstance(key, str) and type(value) in (int, float, bool):
            yield key


def _length(value: Value) -> int:
    return len(value.items) if isinstance(value, ListNode) else -1

"""States of optimizers in another order: each goes with its parameter, joined or cut as that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

from relight.core.edits import ArrangeOptimizer
from relight.core.manifest import KEY
from relight.core.objects import Call, DictNode, ListNode, Value, mapping_get, mapping_pairs
from relight.facts.joined_states import ELEMENTWISE, is_tensor

Conversions: TypeAlias = "dict[str, tuple[tuple[str, ...], str, tuple[int, ...]]]"


class Misfit(ValueError):
    """An edit that does not fit the optimizers of the file."""


def arrange(
    root: Value, edit: ArrangeOptimizer, convert: Callable[[Conversions, Mapping[str, Value]], Mapping[str, Value]]
) -> int:
    """Carry an edit out on a tree.

    Args:
        root: The tree; it is changed.
        edit: What goes where.
        convert: Makes tensors of others: conversions by name, and the tensors that they name.

    Returns:
        How many states nobody takes.

    Raises:
        Misfit: The file's optimizer is another one.
    """
    states = mapping_get(root, "optimizer_states")
    if not isinstance(states, ListNode) or edit.optimizer >= len(states.items):
        raise Misfit(f"it has no optimizer {edit.optimizer}")
    optimizer = states.items[edit.optimizer]
    groups, old = mapping_get(optimizer, "param_groups"), mapping_get(optimizer, "state")
    pairs = mapping_pairs(old)
    options_of = edit.options_of or tuple(range(len(edit.groups)))
    fitting = isinstance(groups, ListNode) and len(groups.items) == len(edit.groups)
    if edit.options_of:
        fitting = (
            isinstance(groups, ListNode) and max(options_of) < len(groups.items) and len(options_of) == len(edit.groups)
        )
    if not isinstance(groups, ListNode) or pairs is None or not fitting:
        raise Misfit(f"its optimizer {edit.optimizer} has other groups")
    ids: list[Value] = []
    for group in groups.items:
        members = mapping_get(group, "params")
        ids += members.items if isinstance(members, ListNode) else []
    by_id = {k: v for k, v in pairs if isinstance(k, (int, str))}
    at = [by_id.get(i) if isinstance(i, (int, str)) else None for i in ids]
    last = max((p for g in edit.groups for sources, _, _ in g for p in sources), default=-1)
    if last >= len(ids):
        raise Misfit(f"its optimizer {edit.optimizer} has {len(ids)} parameters")
    new: list[tuple[Value, Value]] = []
    number = 0
    given: set[int] = set()
    made: list[Value] = []
    for group, wanted in zip((groups.items[i] for i in options_of), edit.groups, strict=True):
        numbers: list[Value] = []
        for sources, op, shape in wanted:
            parts = [at[p] for p in sources]
            if parts and all(part is not None for part in parts):
                # What is counted in place must not be counted for two: the second of a pair gets memory of its own.
                again = not given.isdisjoint(sources)
                given.update(sources)
                new.append(
                    (number, parts[0] if op == "copy" and not again else _made(parts, op, shape, convert, own=again))
                )
            numbers.append(number)
            number += 1
        own = mapping_pairs(group)
        if own is None or not isinstance(group, (DictNode, Call)):
            raise Misfit(f"its optimizer {edit.optimizer} has other groups")
        # Names that newer torch stores are those of the parameters of then; positions are what counts.
        own = [(k, ListNode(list(numbers)) if k == "params" else v) for k, v in own if k != "param_names"]
        if edit.options_of:
            made.append(DictNode(own))
        else:
            group.pairs = own
    if not isinstance(old, (DictNode, Call)):
        raise Misfit(f"its optimizer {edit.optimizer} has no states")
    if edit.options_of:
        groups.items = made
    old.pairs = new
    if isinstance(old, Call) and old.name != "collections.defaultdict":
        old.args = ()
    _forget_places(root, edit.optimizer)
    used = {p for g in edit.groups for sources, _, _ in g for p in sources}
    return sum(state is not None and p not in used for p, state in enumerate(at))


def _forget_places(root: Value, index: int) -> None:
    """A manifest says which parameter had which place when the file was saved: that is not so in the copy."""
    pairs = root.pairs if isinstance(root, (DictNode, Call)) else []
    for i, (key, text) in enumerate(pairs):
        if key != KEY or not isinstance(text, str):
            continue
        try:
            manifest = json.loads(text)
            for group in manifest["training"]["optimizers"][index]["groups"]:
                group.pop("parameters", None)
            pairs[i] = (key, json.dumps(manifest, ensure_ascii=True, separators=(",", ":")))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            continue  # it names no places, or is no manifest


def _made(
    parts: list[Value],
    op: str,
    shape: tuple[int, ...],
    convert: Callable[[Conversions, Mapping[str, Value]], Mapping[str, Value]],
    *,
    own: bool,
) -> Value:
    """One state made of those of the parts, as the parameter is made of them; what is kept once is that of the first.

    Args:
        parts: States.
        op: How the parameter is made.
        shape: Its sizes.
        convert: Makes tensors of others.
        own: Whether somebody else has the states of the parts as well.
    """
    conversions: Conversions = {}
    tensors: dict[str, Value] = {}
    first = mapping_pairs(parts[0]) or []
    for name, value in first:
        if not isinstance(name, str) or not is_tensor(value):
            continue
        if name not in ELEMENTWISE or op == "copy":
            sizes = value.args[2] if isinstance(value, Call) and len(value.args) > 2 else None
            if op != "copy" and sizes != ():
                raise Misfit(f"{name} of an optimizer's state is not kept value by value, and cannot be joined or cut")
            if own and isinstance(sizes, tuple):
                tensors[f"{name}/0"] = value
                conversions[name] = ((f"{name}/0",), "own", tuple(n for n in sizes if isinstance(n, int)))
            continue
        for i, part in enumerate(parts):
            tensors[f"{name}/{i}"] = mapping_get(part, name)
        conversions[name] = (tuple(f"{name}/{i}" for i in range(len(parts))), op, shape)
    made = convert(conversions, tensors)
    return DictNode([(k, made[k] if isinstance(k, str) and k in made else v) for k, v in first])

"""Which arguments of the constructor would give a model the sizes that the file has.

Only arithmetic: an argument is 16, the model has 16 (or four times 16) where the file has 32 (or four times 32). That the
argument is what makes the size is likely then, not certain.
"""

from __future__ import annotations

from collections.abc import Iterable

from relight.facts.attribution import sizes_of
from relight.facts.facts import Facts
from relight.facts.keys import Mismatch


def sized_arguments(facts: Facts, mismatched: Iterable[Mismatch]) -> dict[str, int]:
    """Names and values to pass so that every size that differs becomes that of the file; empty where that is not clear.

    Args:
        facts: All that is known (facts ``contents``, ``spec``).
        mismatched: The tensors, each with as many dimensions in the file as in the model.

    Returns:
        One argument that explains every size, or those that are such a size and explain the others together; nothing
        where several could, or none.
    """
    mismatched = tuple(mismatched)
    sizes = sizes_of(mismatched)
    if not facts.calls_lightning or not sizes or any(len(m.saved) != len(m.wanted) for m in mismatched):
        return {}
    values = _values_of_the_call(facts)
    alone: dict[str, int] = {}
    for name, now in values.items():
        needed = {_scaled(now, size) for size in sizes}
        value = needed.pop() if len(needed) == 1 else None
        if value is not None:
            alone[name] = value
    if alone:
        return alone if len(alone) == 1 else {}
    out: dict[str, int] = {}
    for name, now in values.items():
        exact = {saved for saved, wanted in sizes if wanted == now}
        if len(exact) > 1 or (exact and list(values.values()).count(now) > 1):
            return {}
        if exact:
            out[name] = exact.pop()
    followed = all(any(_scaled(values[n], size) == v for n, v in out.items()) for size in sizes)
    return out if followed else {}


def _values_of_the_call(facts: Facts) -> dict[str, int]:
    """Whole numbers that reach the constructor from its defaults or from the call, and not from the file."""
    init = facts.spec.init
    if init is None:
        return {}
    of_file = {name for name, _ in facts.lightning.hyper_parameters}
    out: dict[str, int] = {}
    for param in init.params:
        passed = facts.question.init.get(param.name)
        if type(passed) is int:
            out[param.name] = passed
        elif passed is None and param.name not in of_file and param.default is not None and param.default.isdecimal():
            out[param.name] = int(param.default)
    return {name: value for name, value in out.items() if value > 1}


def _scaled(now: int, size: tuple[int, int]) -> int | None:
    """What an argument would have to be, if the size is a whole multiple of it on both sides."""
    saved, wanted = size
    if wanted % now or saved % (wanted // now):
        return None
    return saved // (wanted // now)

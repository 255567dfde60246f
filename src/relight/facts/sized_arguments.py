"""Which arguments of the constructor would give a model the sizes that the file has.

Only arithmetic: an argument is 16, the model has 16 (or four times 16) where the file has 32 (or four times 32). That the
argument is what makes the size is likely then, not certain.
"""

from __future__ import annotations

from collections.abc import Iterable

from relight.core.finding import Fix, FixKind
from relight.facts.attribution import Explanation, sizes_of
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
    # A size that an argument is counts for more than one that it divides.
    exact_too = {name: value for name, value in alone.items() if (value, values[name]) in sizes}
    alone = exact_too or alone
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


def counting_argument(facts: Facts, explanations: Iterable[Explanation]) -> dict[str, int]:
    """The argument, and its value, that makes lists of layers as long as in the file; empty where that is not clear.

    Args:
        facts: All that is known (facts ``contents``, ``spec``).
        explanations: Layers that were added or removed.
    """
    counts = {
        (fewer, more) if e.kind == "added" else (more, fewer)
        for e in explanations
        for _, fewer, more in e.about["equals"]
    }
    if not facts.calls_lightning or len(counts) != 1:
        return {}
    ((saved, wanted),) = counts
    names = [name for name, now in _values_of_the_call(facts).items() if now == wanted]
    return {names[0]: saved} if len(names) == 1 else {}


def as_many_blocks(facts: Facts, explanation: Explanation) -> list[Fix]:
    """The call that makes lists of layers as long as in the file, where one argument is their length now."""
    values = counting_argument(facts, [explanation])
    told = ", ".join(f"{name}={value}" for name, value in values.items())
    title = f"Build the model as it was trained. As far as the numbers show, {told} gives as many:"
    return [Fix(title=title, kind=FixKind.LOAD_ARGUMENT, code=facts.question.load_call(**values))] if values else []


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

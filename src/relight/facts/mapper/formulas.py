"""How the numbers of one name follow from those of another, told from examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NAMES = "abcdefghij"
_LONGEST = 64  # entries of a list that a person may still read
_TIMES = range(2, 13)

Numbers = tuple[int, ...]
Example = tuple[Numbers, Numbers]


class Fit(NamedTuple):
    """What stands in the holes of both sides.

    Attributes:
        source: For each number of the source: a hole, or the number as it stands.
        target: The same for the target.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]


def fit(examples: Sequence[Example], fixed: dict[int, int], listed: int | None = None) -> Fit | None:
    """The simplest formulas that hold for all examples; None where there are none.

    Args:
        examples: Numbers of both sides.
        fixed: Numbers of the source that stay as they stand, by place.
        listed: A number of the source that may only be one of those seen.
    """
    sources = [e[0] for e in examples]
    places = [i for i in range(len(sources[0])) if i not in fixed]
    lists: dict[int, Numbers] = {}
    if listed is not None:
        lists[listed] = tuple(sorted({s[listed] for s in sources}))
        if len(lists[listed]) > _LONGEST:
            return None
    names = {i: NAMES[n] for n, i in enumerate(places[: len(NAMES)])}
    goal = []
    free = list(names)
    for j in range(len(examples[0][1])):
        column = [e[1][j] for e in examples]
        made = _formula(sources, column, names, lists, free)
        if made is None:
            return None
        goal.append(made)
    source = []
    for i, value in enumerate(sources[0]):
        if i not in names:
            source.append(str(value))
        else:
            source.append(f"{{{names[i]}:{_text(lists[i])}}}" if i in lists else f"{{{names[i]}}}")
    return Fit(tuple(source), tuple(goal))


def _formula(
    sources: Sequence[Numbers], column: Sequence[int], names: dict[int, str], lists: dict[int, Numbers], free: list[int]
) -> str | None:
    # A number that no other of the target stands for yet, and those in the same order, come first.
    for i in sorted(names, key=lambda i: (i not in free, i)):
        if all(s[i] == t for s, t in zip(sources, column, strict=True)):
            if i in free:
                free.remove(i)
            return f"{{{names[i]}}}"
    if len(set(column)) == 1 and (len(sources) > 1 or not names):
        return str(column[0])
    for i in sorted(names, key=lambda i: (i not in free, i)):
        made = _of_one([s[i] for s in sources], column, names[i])
        if made is not None:
            if i in free:
                free.remove(i)
            return made
    if len(set(column)) == 1:
        return str(column[0])
    for i in names:
        made = _of_two(sources, column, names, i)
        if made is not None:
            return made
    for i in names:
        table = _table([s[i] for s in sources], column)
        if table is not None and lists.get(i, tuple(sorted(table))) == tuple(sorted(table)) and _may_list(lists, i):
            lists[i] = tuple(sorted(table))
            return f"{{{names[i]}:{_text([table[n] for n in lists[i]])}}}"
    for i in names:
        for k in names:
            rest = [t - s[k] for s, t in zip(sources, column, strict=True)]
            table = _table([s[i] for s in sources], rest) if k != i and min(rest) >= 0 else None
            if table is not None and lists.get(i, tuple(sorted(table))) == tuple(sorted(table)) and _may_list(lists, i):
                lists[i] = tuple(sorted(table))
                return f"{{{names[i]}:{_text([table[n] for n in lists[i]])}+{names[k]}}}"
    return None


def _may_list(lists: dict[int, Numbers], i: int) -> bool:
    return i in lists or not lists  # one list a rule: two of them nobody reads


def _of_one(values: Sequence[int], column: Sequence[int], name: str) -> str | None:
    more = {t - v for v, t in zip(values, column, strict=True)}
    if len(more) == 1 and (len(set(values)) > 1 or abs(min(more)) == 1):
        return f"{{{name}{more.pop():+d}}}"
    if len(set(values)) < 2:
        return None
    total = {t + v for v, t in zip(values, column, strict=True)}
    if len(total) == 1:
        return f"{{{total.pop()}-{name}}}"
    if len(set(values)) < 3:
        return None
    for times in _TIMES:
        more = {t - times * v for v, t in zip(values, column, strict=True)}
        if len(more) == 1:
            n = more.pop()
            return f"{{{name}*{times}{n:+d}}}" if n else f"{{{name}*{times}}}"
    return None


def _of_two(sources: Sequence[Numbers], column: Sequence[int], names: dict[int, str], i: int) -> str | None:
    if len({s[i] for s in sources}) < 2:
        return None
    for k in names:
        if k == i or len({s[k] for s in sources}) < 2:
            continue
        for times in (1, *_TIMES):
            more = {t - times * s[i] - s[k] for s, t in zip(sources, column, strict=True)}
            if len(more) == 1:
                n = more.pop()
                factor = f"*{times}" if times > 1 else ""
                return f"{{{names[i]}{factor}+{names[k]}{f'{n:+d}' if n else ''}}}"
    return None


def _table(values: Sequence[int], column: Sequence[int]) -> dict[int, int] | None:
    out: dict[int, int] = {}
    for v, t in zip(values, column, strict=True):
        if out.setdefault(v, t) != t:
            return None
    return out if 2 <= len(out) <= _LONGEST else None


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))

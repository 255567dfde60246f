"""A few rules that say what many pairs say: editable, and applied to keys alone, one after the other.

A rule rewrites the front of a key: ``backbone.layer{a}.`` -> ``encoder.stages.{a-1}.``; what follows the written part is
kept. With ``*`` in front it rewrites a stretch that begins anywhere at the start of a name, with ``*`` at both ends every
place where the text stands; with ``$`` behind nothing may follow. Each rule sees what those before it made of a key; a
key that no rule fits keeps its name.

Numbers: ``{a}`` any, ``{a:1,3,5}`` one of these. In the target ``{a+1}``, ``{a*2+1}``, ``{3-a}``, ``{a*4+b}``,
``{a:0,1,2}`` (the first of the list for the first of the source's, and so on) and ``{a:0,4,8+b}``. ``{*}`` stands for
every number there is, in order: so are experts put together. A rule with several targets takes a tensor apart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

HOLE = re.compile(r"\{([^{}]*)\}")
_LIST = r"\d+(?:,\d+)*"
_SOURCE_HOLE = re.compile(rf"([a-z])(?::({_LIST}))?\Z")
_TARGET_HOLE = re.compile(
    rf"(?:(?P<minuend>\d+)-(?P<less>[a-z])|(?P<name>[a-z])(?:\*(?P<times>\d+)|:(?P<list>{_LIST}))?"
    r"(?:\+(?P<other>[a-z]))?(?P<more>[+-]\d+)?)\Z"
)
EACH = "*"
UNDOTTED, DOTTED = "undotted", "dotted"
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rewrite.

    Attributes:
        source: Patterns of the keys in the checkpoint, several where they are put together.
        target: Patterns of the keys in the model, several where a tensor is taken apart.
        op: What is done to the tensors. With several targets ``split:D`` is equal parts, ``slice:D:A,B`` parts of so
            many rows, and ``X|Y`` an op for each; ``left out`` takes the key away.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    op: str = "copy"

    def __str__(self) -> str:
        return f"{left(self)} -> {right(self)}" + ("" if self.op in ("copy", LEFT_OUT) else f"  [{self.op}]")


def left(rule: Rule) -> str:
    """What a rule applies to, as it is shown."""
    return " + ".join(rule.source)


def right(rule: Rule) -> str:
    """What a rule makes of it, as it is shown."""
    return "(left out)" if rule.op == LEFT_OUT else " | ".join(rule.target)


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor on its way.

    Attributes:
        key: The name that it has by now.
        source: Keys of the checkpoint that it comes from.
        op: What was done so far.
    """

    key: str
    source: tuple[str, ...]
    op: str = "copy"


Applied = dict[str, tuple[tuple[str, ...], str]]


# ---------------------------------------------------------------- patterns

_Fill = Callable[[Mapping[str, int]], "int | None"]


@dataclass(frozen=True, slots=True)
class _Source:
    """A pattern ready to be matched: its expression, its lists, and text that every key that fits has."""

    expression: re.Pattern[str]
    lists: dict[str, tuple[int, ...]]
    text: str
    everywhere: bool


def body(pattern: str) -> str:
    """A pattern without the signs at its ends."""
    text = pattern.removesuffix("$")
    return text.removeprefix("*").removesuffix("*") if text[:1] == "*" else text


@lru_cache(maxsize=8192)
def _compiled(pattern: str) -> _Source:
    text, at, out = body(pattern), 0, []
    lists: dict[str, tuple[int, ...]] = {}
    literals = [""]
    for hole in HOLE.finditer(text):
        literals.append(text[at : hole.start()])
        out.append(re.escape(literals[-1]))
        at = hole.end()
        kind = _SOURCE_HOLE.match(hole[1])
        if kind is None:
            out.append(r"(?P<each>\d+)" if hole[1] == EACH else r"(?P<name>[^.]+)\Z")
        elif kind[2] is None:
            out.append(f"(?P<{kind[1]}>\\d+)")
        else:
            lists[kind[1]] = tuple(int(n) for n in kind[2].split(","))
            out.append(f"(?P<{kind[1]}>{'|'.join(sorted(kind[2].split(','), key=len, reverse=True))})(?!\\d)")
    literals.append(text[at:])
    out.append(re.escape(literals[-1]))
    everywhere = len(pattern) > 1 and pattern[0] == pattern[-1] == "*"
    if not everywhere:
        front = r"(?P<front>(?:.*\.)?)" if pattern.startswith("*") else ""
        out = [front, *out, r"\Z" if pattern.endswith("$") else r"(?P<rest>.*)\Z"]
    return _Source(re.compile("".join(out), re.DOTALL), lists, max(literals, key=len), everywhere)


@lru_cache(maxsize=8192)
def _formula(text: str) -> Callable[[Mapping[str, int], Mapping[str, tuple[int, ...]]], int | None]:
    """What a hole of a target says of the numbers of the source."""
    found = _TARGET_HOLE.match(text)
    assert found is not None  # `unsound` has looked
    minuend, less, name, times, table, other, more = found.groups()
    values = tuple(int(n) for n in table.split(",")) if table else ()

    def value(holes: Mapping[str, int], lists: Mapping[str, tuple[int, ...]]) -> int | None:
        if less:
            return int(minuend) - holes[less]
        out = holes[name]
        if table:
            keys = lists.get(name, ())
            if out not in keys or keys.index(out) >= len(values):
                return None
            out = values[keys.index(out)]
        return out * int(times or 1) + (holes[other] if other else 0) + int(more or 0)

    return value


def _filled(pattern: str, groups: Mapping[str, str | None], lists: Mapping[str, tuple[int, ...]]) -> str | None:
    holes = {n: int(v) for n, v in groups.items() if len(n) == 1 and v is not None}
    out, at, text = [], 0, body(pattern)
    for hole in HOLE.finditer(text):
        out.append(text[at : hole.start()])
        at = hole.end()
        if len(hole[1]) == 1 and hole[1] != EACH:
            out.append(groups[hole[1]] or "")
        elif hole[1] == EACH:
            out.append(groups.get("each") or "")
        else:
            number = _formula(hole[1])(holes, lists)
            if number is None or number < 0:
                return None
            out.append(str(number))
    out.append(text[at:])
    return "".join(out)


def unsound(rule: Rule) -> str | None:
    """Why a rule that a person wrote can never be applied; None if it can."""
    first, *others = rule.source
    names: list[str] = []
    for hole in HOLE.finditer(first):
        kind = _SOURCE_HOLE.match(hole[1])
        if kind is not None:
            names.append(kind[1])
        elif hole[1] not in (EACH, UNDOTTED):
            where = "belongs into the target" if _TARGET_HOLE.match(hole[1]) else "is no number"
            return f"{hole[0]} {where}"
    if len(set(names)) < len(names):
        return "one name stands for two numbers"
    for pattern in (*others, *rule.target):
        for hole in HOLE.finditer(pattern):
            if hole[1] in (EACH, DOTTED):
                continue
            found = _TARGET_HOLE.match(hole[1])
            if found is None:
                return f"{hole[0]} is no number"
            for name in (found["less"], found["name"], found["other"]):
                if name and name not in names:
                    return f"{{{name}}} does not stand in {first!r}"
    if {p[:1] == "*" for p in (*rule.source, *rule.target)} == {True, False} and rule.op != LEFT_OUT:
        return "a * in front stands on both sides or on none"
    if len(rule.source) > 1 and len(rule.target) > 1:
        return "several sources and several targets at once"
    return None


def rewrite(rule: Rule, key: str) -> str | None:
    """What a rule with one source and one target makes of a key; None where it does not apply."""
    found = _compiled(rule.source[0])
    if found.text not in key:
        return None
    if found.everywhere:
        made = found.expression.sub(lambda m: _or_same(rule.target[0], m, found.lists), key)
        return None if made == key else made
    match = found.expression.match(key)
    return None if match is None else _ended(rule.target[0], match, found.lists)


def _or_same(pattern: str, match: re.Match[str], lists: Mapping[str, tuple[int, ...]]) -> str:
    made = _filled(pattern, match.groupdict(), lists)
    return match[0] if made is None else made


def _ended(pattern: str, match: re.Match[str], lists: Mapping[str, tuple[int, ...]]) -> str | None:
    """A target with what the rule keeps before and behind it."""
    groups = match.groupdict()
    made = _filled(pattern, groups, lists)
    return None if made is None else (groups.get("front") or "") + made + (groups.get("rest") or "")


# ---------------------------------------------------------------- application


def apply(rules: Sequence[Rule], keys: Iterable[str], names: Iterable[str] = ()) -> Applied:
    """What rules make of the keys of a checkpoint.

    Args:
        rules: In order.
        keys: Keys of the checkpoint.
        names: Keys of the model, which a rule that puts dots in again looks at.

    Returns:
        By target key: the source keys and the op.
    """
    items = [Item(key, (key,)) for key in keys]
    for rule in rules:
        items = step(rule, items, names)
    out: Applied = {}
    for item in items:
        out.setdefault(item.key, (item.source, item.op))
    return out


def fits(rules: Sequence[Rule], keys: Iterable[str], names: Iterable[str] = ()) -> list[int]:
    """How many tensors each rule applies to."""
    items = [Item(key, (key,)) for key in keys]
    out = []
    for rule in rules:
        before = {(item.key, item.op) for item in items}
        items = step(rule, items, names)
        after = {(item.key, item.op) for item in items}
        out.append(len(before - after) if len(rule.target) > 1 or rule.op == LEFT_OUT else len(after - before))
    return out


def step(rule: Rule, items: Sequence[Item], names: Iterable[str] = ()) -> list[Item]:
    """What one rule makes of what those before it made."""
    if len(rule.source) > 1 or "{*}" in rule.source[0]:
        return _together(rule, items)
    if "{undotted}" in rule.source[0]:
        return _dotted(rule, items, names)
    if rule.op == LEFT_OUT:
        return [item for item in items if not _fits(rule.source[0], item.key)]
    if len(rule.target) > 1:
        return [part for item in items for part in _apart(rule, item)]
    out = []
    for item in items:
        made = rewrite(rule, item.key)
        out.append(item if made is None else Item(made, item.source, joined(item.op, rule.op)))
    return out


def joined(first: str, then: str) -> str:
    """Two ops one after the other."""
    return then if first == "copy" else first if then == "copy" else f"{first}+{then}"


def _fits(pattern: str, key: str) -> bool:
    found = _compiled(pattern)
    return found.text in key and found.expression.match(key) is not None


def _apart(rule: Rule, item: Item) -> list[Item]:
    found = _compiled(rule.source[0])
    match = found.expression.match(item.key) if found.text in item.key else None
    if match is None:
        return [item]
    keys = [_ended(target, match, found.lists) for target in rule.target]
    return [
        Item(key, item.source, joined(item.op, op))
        for key, op in zip(keys, parts_of(rule.op, len(keys)), strict=True)
        if key is not None
    ]


def parts_of(op: str, n: int) -> list[str]:
    """The op of each of several targets."""
    if "|" in op:
        found = op.split("|")
        return [*found, *["copy"] * n][:n]
    how, _, more = op.partition("+")
    more = f"+{more}" if more else ""
    kind, *rest = how.split(":")
    if kind == "split" and len(rest) == 1:
        return [f"{how}:{i}/{n}{more}" for i in range(n)]
    if kind == "slice" and len(rest) == 2:
        sizes = [int(s) for s in rest[1].split(",") if s.isdigit()]
        starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return [f"slice:{rest[0]}:{a}:{b}{more}" for a, b in pairwise(starts)][:n]
    return [op] * n


def _together(rule: Rule, items: Sequence[Item]) -> list[Item]:
    """Put together what the sources of a rule fit, where all of them are there."""
    there = {item.key: item for item in items}
    found = _compiled(rule.source[0])
    groups: dict[tuple[str, ...], list[tuple[int, re.Match[str]]]] = defaultdict(list)
    for item in items:
        match = found.expression.match(item.key) if found.text in item.key else None
        if match is not None:
            same = {name: value for name, value in match.groupdict().items() if name != "each"}
            each = int(match.groupdict().get("each") or 0)
            groups[tuple(f"{k}={v}" for k, v in same.items())].append((each, match))
    made: dict[str, Item | None] = {}
    for members in groups.values():
        members.sort(key=lambda m: m[0])
        keys = [_ended(p, match, found.lists) for p in rule.source for _, match in members]
        keys[: len(members)] = [match.string for _, match in members]
        target = _ended(rule.target[0], members[0][1], found.lists)
        parts = [there[k] for k in keys if k is not None and k in there]
        if target is None or len(parts) < len(keys) or any(p.op != "copy" for p in parts):
            continue
        made.update(dict.fromkeys((p.key for p in parts), None))
        made[parts[0].key] = Item(target, tuple(s for p in parts for s in p.source), rule.op)
    return [out for item in items for out in (made.get(item.key, item),) if out is not None]


def _dotted(rule: Rule, items: Sequence[Item], names: Iterable[str]) -> list[Item]:
    """Put dots in again where the model has a name that is the same without them."""
    front, start = rule.source[0].removesuffix("{undotted}"), rule.target[0].removesuffix("{dotted}")
    known: dict[str, str] = {}
    for name in names:
        if name.startswith(start):
            known.setdefault(name[len(start) :].replace(".", ""), name)
    out = []
    for item in items:
        found = known.get(item.key[len(front) :]) if item.key.startswith(front) else None
        out.append(item if found is None else Item(found, item.source, joined(item.op, rule.op)))
    return out

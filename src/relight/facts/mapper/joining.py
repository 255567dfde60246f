"""Rules that put tensors together, take them apart or share them, and what the names become by that."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relight.facts.mapper.alignment import distance
from relight.facts.mapper.pairs import LEVELS, Pair
from relight.facts.mapper.rules import Item, Rule, parts_of, step

_NUMBER = re.compile(r"\d+")
_APART = ("split", "slice")


@dataclass(slots=True)
class Plan:
    """What is left to do once tensors are put together and taken apart.

    Attributes:
        rules: The rules that did it.
        items: The tensors under the names that they have then.
        goals: By source and name: the name in the model, and what is still to be done.
        ties: ``(target, further targets and what is done for them)`` of tensors that several of the model share.
    """

    rules: list[Rule] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    goals: dict[tuple[tuple[str, ...], str], tuple[str, str]] = field(default_factory=dict)
    ties: list[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=list)


# What becomes of one tensor or of several: by name, where it comes from and what was done.
Made = dict[str, tuple[tuple[str, ...], str]]


def without_dots(pairs: Sequence[Pair]) -> Rule | None:
    """The rule for names that are those of the model without dots behind a prefix, as an average of weights has them."""
    votes: dict[tuple[str, str], int] = defaultdict(int)
    for p in pairs:
        if p.op == "copy" and len(p.source) == 1 and p.target.count(".") > p.source[0].count("."):
            parts = p.target.split(".")
            for n in range(min(len(parts) - 1, 4)):
                front, rest = ".".join(parts[:n]) + "." * (n > 0), "".join(parts[n:])
                if p.source[0].endswith(rest) and "." not in rest and len(parts) - n > 2:
                    votes[p.source[0][: -len(rest)], front] += 1
    if not votes:
        return None
    (mine, theirs), n = max(votes.items(), key=lambda v: (v[1], -len(v[0][1]), v[0]))
    return Rule((mine + "{undotted}",), (theirs + "{dotted}",)) if n * 2 > len(pairs) and n > 3 else None


def slashes(pairs: Sequence[Pair]) -> Rule | None:
    """The rule for names whose parts are joined by slashes, where those of the model have dots."""
    mine = sum("/" in p.source[0] and "." not in p.source[0] for p in pairs)
    theirs = sum("/" in p.target for p in pairs)
    return Rule(("*/*",), ("*.*",)) if mine * 2 > len(pairs) and not theirs else None


def plan(pairs: Sequence[Pair], left_over: Sequence[str], names: set[str], before: Sequence[Rule]) -> Plan:
    """Choose the rules that put together and take apart.

    Args:
        pairs: What they have to give.
        left_over: Keys that no pair has.
        names: Keys of the model.
        before: Rules that were applied already.
    """
    out = Plan()
    keys = dict.fromkeys((*(s for p in pairs for s in p.source), *left_over))
    out.items = [Item(key, (key,)) for key in keys]
    for rule in before:
        out.items = step(rule, out.items, names)
    at = {i.source[0]: i.key for i in out.items}
    units: dict[str, list[Pair]] = defaultdict(list)
    for p in pairs:
        units[p.source[0]].append(p)
    tried: list[tuple[Made, list[Rule]]] = []
    expected: Made = {}
    for unit in units.values():
        first = unit[0]
        if len(first.source) > 1:
            name, rules = _one_of(first, [at[s] for s in first.source])
            made: Made = {name: (first.source, first.op)}
            out.goals[first.source, name] = (first.target, "copy")
        elif len(unit) > 1 and all(p.op.startswith(_APART) for p in unit):
            made, rules = _several_of(unit, at[first.source[0]])
            for p, name in zip(_in_order(unit), made, strict=True):
                out.goals[p.source, name] = (p.target, "copy")
        else:
            main = min(
                unit, key=lambda p: (p.op != "copy", LEVELS[::-1].index(p.confidence), distance(p.source[0], p.target))
            )
            out.goals[main.source, at[main.source[0]]] = (main.target, main.op)
            others = tuple((p.target, "copy" if p.op == main.op else p.op) for p in unit if p is not main)
            if others:
                out.ties.append((main.target, others))
            continue
        expected.update(made)
        tried.append((made, rules))
    for made, rules in tried:
        if all((i.source, i.op) == made.get(i.key) for i in out.items if i.key in made) and any(
            i.key in made for i in out.items
        ):
            continue  # a rule before has done it
        for rule in rules:
            after = step(rule, out.items)
            old = {(i.key, i.source) for i in out.items}
            new = [i for i in after if (i.key, i.source) not in old]
            if new and all(expected.get(i.key) == (i.source, i.op) for i in new):
                out.rules.append(rule)
                out.items = after
                break
    return out


def _in_order(unit: Sequence[Pair]) -> list[Pair]:
    """Parts of a tensor from the first row to the last."""
    return sorted(unit, key=lambda p: [int(n) for n in _NUMBER.findall(p.op)[1:2]])


def _joint_op(unit: Sequence[Pair]) -> str:
    """The op that says what is done for each of several parts."""
    ops = [p.op for p in unit]
    how, _, more = ops[0].partition("+")
    kind, dim, *_ = how.split(":")
    more = f"+{more}" if more else ""
    if kind == "split":
        said = f"split:{dim}{more}"
    else:
        bounds = [[int(n) for n in op.partition("+")[0].split(":")[2:4]] for op in ops]
        said = f"slice:{dim}:{','.join(str(b - a) for a, b in bounds)}{more}"
    return said if parts_of(said, len(ops)) == ops else "|".join(ops)


def _several_of(unit: Sequence[Pair], key: str) -> tuple[Made, list[Rule]]:
    """The names of the parts of a tensor, and rules that give them, the most general first."""
    ordered = _in_order(unit)
    targets = [p.target.split(".") for p in ordered]
    mine = key.split(".")
    before = _common(targets)
    after = _common([t[::-1] for t in targets], min(len(t) for t in targets) - before - 1)
    kept = _common([mine[::-1], targets[0][::-1]], min(after, len(mine) - 1))
    middles = [t[before : len(t) - kept] for t in targets]
    place = len(mine) - kept - 1
    names = [".".join((*mine[:place], *m, *mine[place + 1 :])) for m in middles]
    made: Made = {n: (p.source, p.op) for n, p in zip(names, ordered, strict=True)}
    return made, list(_with_context(mine, place, place + 1, [mine[place]], middles, _joint_op(ordered)))


def _one_of(pair: Pair, keys: Sequence[str]) -> tuple[str, list[Rule]]:
    """The name of tensors put together, and rules that give it."""
    parts = [k.split(".") for k in keys]
    target = pair.target.split(".")
    before = _common(parts)
    kept = _common([target[::-1], *(p[::-1] for p in parts)], min(len(target), *(len(p) - before for p in parts)) - 1)
    middle = target[len(target) - kept - 1 : len(target) - kept]
    name = ".".join((*parts[0][:before], *middle, *parts[0][len(parts[0]) - kept :]))
    halves = [parts[: len(parts) // 2], parts[len(parts) // 2 :]] if pair.op.startswith("stack2") else [parts]
    mids = [_each([p[before : len(p) - kept] for p in half]) for half in halves]
    if any(m is None for m in mids) or not pair.op.startswith("stack"):
        texts = [".".join(p[before : len(p) - kept]) for p in parts]
    else:
        texts = [m for m in mids if m is not None]
    end = len(parts[0]) - kept
    rules = _with_context(parts[0], before, end, texts, [middle], pair.op)
    return name, list(rules)


def _each(middles: Sequence[Sequence[str]]) -> str | None:
    """Names that differ in one number, which counts all of them, with that number left open."""
    first = middles[0]
    for i, part in enumerate(first):
        if part.isdigit() and len({(*m[:i], *m[i + 1 :]) for m in middles}) == 1 and len(middles) > 1:
            numbers = [int(m[i]) for m in middles if m[i].isdigit()]
            if len(numbers) == len(middles) and numbers == sorted(set(numbers)):
                return ".".join((*first[:i], "{*}", *first[i + 1 :]))
    return None


def _with_context(
    parts: Sequence[str], start: int, end: int, mine: Sequence[str], theirs: Sequence[Sequence[str]], op: str
) -> Iterator[Rule]:
    """Rules that name more and more of what stands before, with its numbers left open and then as they stand."""
    more = "." if end < len(parts) else ""
    least = 1 if "{*}" in "".join(mine) and start else 0
    for n in range(least, start + 1):
        star = "*" if n < start else ""
        given = "".join(f"{p}." for p in parts[start - n : start])
        for front in dict.fromkeys((opened(given), given)):
            yield Rule(
                tuple(f"{star}{front}{m}{more}" for m in mine),
                tuple(f"{star}{front}{'.'.join(t)}{more}" for t in theirs),
                op,
            )
    if more:
        # Only this parameter of the layer, not the others.
        tail = ".".join(parts[end:])
        yield from _with_context(
            parts[:end], start, end, [f"{m}.{tail}" for m in mine], [[*t, tail] for t in theirs], op
        )


def opened(text: str) -> str:
    """A text with its numbers left open."""
    names = iter("abcdefghij")
    return _NUMBER.sub(lambda m: f"{{{next(names, 'k')}}}", text)


def _common(lists: Sequence[Sequence[str]], most: int | None = None) -> int:
    """How many names all of several paths begin with."""
    n = 0
    shortest = min(len(p) for p in lists) if most is None else most
    while n < shortest and len({p[n] for p in lists}) == 1:
        n += 1
    return n


def shared(found: Plan) -> list[Rule]:
    """Rules that give a tensor to several of the model; they come last, and speak of the model's names."""
    wanted = {main: {main, *(t for t, _ in others)} for main, others in found.ties}
    mains = [goal for goal, _ in found.goals.values()]
    out: list[Rule] = []
    done: set[str] = set()
    for main, others in found.ties:
        if main in done:
            continue
        targets = [main.split("."), *(t.split(".") for t, _ in others)]
        after = _common([t[::-1] for t in targets], min(len(t) for t in targets) - 1)
        ops = ["copy", *(op for _, op in others)]
        op = "copy" if set(ops) == {"copy"} else "|".join(ops)
        for kept in range(after, -1, -1):
            texts = [".".join(t[: len(t) - kept]) + "." * (kept > 0) for t in targets]
            for rule in dict.fromkeys((_alike(texts, op), Rule((texts[0],), tuple(texts), op))):
                items = [Item(m, (m,)) for m in mains]
                after_it = step(rule, items)
                by_main: dict[str, set[str]] = defaultdict(set)
                for i in after_it:
                    by_main[i.source[0]].add(i.key)
                changed = {m for m, got in by_main.items() if got != {m}}
                if main in changed and all(by_main[m] == wanted.get(m) for m in changed):
                    out.append(rule)
                    done |= changed
                    break
            if main in done:
                break
    return out


def _alike(texts: Sequence[str], op: str) -> Rule:
    """The rule with the numbers of the first left open wherever the others have them as well."""
    numbers = _NUMBER.findall(texts[0])
    if len(set(numbers)) < len(numbers) or any(_NUMBER.findall(t) not in (numbers, []) for t in texts):
        return Rule((texts[0],), tuple(texts), op)
    return Rule((opened(texts[0]),), tuple(opened(t) for t in texts), op)

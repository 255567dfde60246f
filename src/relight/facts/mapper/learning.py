"""Few rules that regenerate many pairs, learnt as a person would write them: the one that mends most comes first.

Each round takes the rewrite that brings the names nearest to what they have to be, applies it, and looks again at what is
left. Rules that put tensors together or take them apart come before, those that share a tensor at the end. What is
learnt from a few keys of each family is tried on all of them, and what fails is looked at as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from relight.facts.mapper import joining
from relight.facts.mapper.alignment import distance, tokens, windows
from relight.facts.mapper.formulas import Example, fit
from relight.facts.mapper.pairs import Pair
from relight.facts.mapper.rules import LEFT_OUT, Applied, Item, Rule, apply, rewrite, step

_NUMBER = re.compile(r"\d+")
T = TypeVar("T")
_FAMILY = 4  # keys of one family that are looked at first
_TRIES = 6
_MOST_RULES = 60
_LOOKED_AT = 400  # candidates of one round that are weighed in full
_OP = 1.5  # how far a tensor is from its target while something is still to be done to it
_HALF_A_NAME = 0.85  # of the gain, for a rule that ends within a name
_ENTRY = 0.3  # what an entry of a list costs: one list for whole blocks is better than one for each layer of them
_TRIED_WITHOUT = 60_000  # rules times keys up to which each rule is tried to be left away
_NEARLY = 0.9  # forms that show in nearly as many names as the best rule mends are weighed as well
_WORSE = 1.5
_STOLEN = 4.0  # what it costs that a key which belongs to nothing gets the name of another
_LITERALS = 8  # values of a number that are tried as they stand


@dataclass(slots=True)
class Case:
    """A tensor whose name is to become that of the model.

    Attributes:
        key: Its name by now.
        goal: Its name in the model; empty for what is left over.
        op: What is still to be done to it.
        first: Its name in the checkpoint, of the first of several.
    """

    key: str
    goal: str
    op: str = "copy"
    first: str = ""

    @property
    def far(self) -> float:
        """How much is left to do."""
        return distance(self.key, self.goal) + (_OP if self.op != "copy" else 0.0)


def learn(pairs: Iterable[Pair], keys: Iterable[str] = (), free: Iterable[str] = ()) -> list[Rule]:
    """Few rules that regenerate pairs.

    Args:
        pairs: What the mapper found.
        keys: All keys of the checkpoint: what is left over must not be rewritten to a key that a pair has.
        free: Keys of the model that stay without a source, and must not get one by a rule.
    """
    units: dict[str, list[Pair]] = defaultdict(list)
    for p in pairs:
        units[p.source[0]].append(p)
    wanted = {p.target: p for unit in units.values() for p in unit}
    sources = {s: None for p in wanted.values() for s in p.source}
    listed = list(dict.fromkeys((*keys, *sources)))
    names = (*wanted, *free)
    taken = {p.target: (p.source, p.op) for p in wanted.values()}
    left_over = [k for k in listed if k not in sources]
    chosen = _sample(units.values(), left_over)
    best: list[Rule] = []
    best_missing: list[str] | None = None
    for _ in range(_TRIES):
        mine = [p for unit in chosen[0].values() for p in unit]
        rules = _rules(mine, list(chosen[1]), set(names))
        given = apply(rules, listed, names)
        missing = [t for t in taken if given.get(t) != taken[t]]
        stolen = [s for t in free if t in given for s in given[t][0]]
        if best_missing is None or len(missing) + len(stolen) + len(rules) < len(best_missing) + len(best):
            best, best_missing = rules, [*missing, *stolen]
        if not missing and not stolen:
            break
        before = len(chosen[0]) + len(chosen[1])
        _add(chosen, missing, stolen, units, wanted, given)
        if len(chosen[0]) + len(chosen[1]) == before:
            break
    return _mended(best, taken, listed, names)


def _form(text: str) -> str:
    return _NUMBER.sub("#", text)


Sample = tuple[dict[str, list[Pair]], dict[str, None]]


def _sample(units: Iterable[list[Pair]], left_over: Sequence[str]) -> Sample:
    """A few of each family of pairs, spread over it, and of each family of keys that are left over."""
    families: dict[object, list[list[Pair]]] = defaultdict(list)
    for unit in units:
        families[tuple((_form(p.source[0]), len(p.source), _form(p.target), p.op) for p in unit)].append(unit)
    chosen = {unit[0].source[0]: unit for members in families.values() for unit in _spread(members)}
    rest: dict[str, list[str]] = defaultdict(list)
    for key in left_over:
        rest[_form(key)].append(key)
    return chosen, dict.fromkeys(key for members in rest.values() for key in _spread(members))


def _spread(members: Sequence[T]) -> list[T]:
    if len(members) <= _FAMILY:
        return list(members)
    last = len(members) - 1
    return [members[round(i * last / (_FAMILY - 1))] for i in range(_FAMILY)]


def _add(
    chosen: Sample,
    missing: Sequence[str],
    stolen: Sequence[str],
    units: dict[str, list[Pair]],
    wanted: dict[str, Pair],
    given: Applied,
) -> None:
    """Look also at what came out wrong, and at what took its place; a few of each family."""
    seen: dict[str, int] = defaultdict(int)
    for target in missing:
        p = wanted[target]
        family = _form(p.source[0]) + _form(target)
        if p.source[0] not in chosen[0]:
            seen[family] += 1
            if seen[family] <= 3 * _FAMILY:
                chosen[0][p.source[0]] = units[p.source[0]]
        for key in given.get(target, ((), ""))[0]:
            if key in units:
                chosen[0].setdefault(key, units[key])
            elif seen["-" + _form(key)] < _FAMILY:
                seen["-" + _form(key)] += 1
                chosen[1][key] = None
    chosen[1].update(dict.fromkeys(stolen[: 8 * _FAMILY]))


def _mended(rules: list[Rule], taken: Applied, keys: list[str], names: Sequence[str]) -> list[Rule]:
    """The rules without those that nothing needs, and with one of its own for each pair that they do not give."""
    free = set(names) - set(taken)

    def right(candidate: list[Rule]) -> int:
        given = apply(candidate, keys, names)
        return sum(given.get(t) == pair for t, pair in taken.items()) - sum(t in given for t in free)

    best = right(rules)
    if len(rules) * len(keys) < _TRIED_WITHOUT:
        for rule in list(rules):
            fewer = [r for r in rules if r is not rule]
            if right(fewer) >= best:
                rules = fewer
    items = [Item(key, (key,)) for key in keys]
    for rule in rules:
        items = step(rule, items, names)
    there = {item.key: (item.source, item.op) for item in items}
    at = {item.source: item.key for item in items}
    for target, (source, op) in taken.items():
        if there.get(target) == (source, op):
            continue
        if target not in there and source in at:
            rules = [*rules, Rule((at[source] + "$",), (target + "$",), op)]
        else:  # another tensor goes by that name when the rules are through
            rules = [Rule(source, (target,), op), *rules]
    return rules


# ---------------------------------------------------------------- one sample


def _rules(pairs: Sequence[Pair], left_over: Sequence[str], names: set[str]) -> list[Rule]:
    rules = [rule for rule in (joining.slashes(pairs), joining.without_dots(pairs)) if rule is not None]
    plan = joining.plan(pairs, left_over, names, rules)
    cases = [Case(i.key, *plan.goals.get((i.source, i.key), ("", "copy")), i.source[0]) for i in plan.items]
    renames = _renames(cases, names)
    ours = {s for p in pairs for s in p.source}
    return [*_left_out(cases, ours, names), *rules, *plan.rules, *renames, *joining.shared(plan)]


def _left_out(cases: Sequence[Case], ours: set[str], names: set[str]) -> list[Rule]:
    """Rules that take away what is left over and would end up under a name that is not its own.

    Args:
        cases: The tensors under the names that all other rules give them.
        ours: Keys that have a place in the model.
        names: Keys of the model.
    """
    out: list[Rule] = []
    for case in cases:
        if case.goal or case.key not in names or any(rewrite(r, case.first) is not None for r in out):
            continue
        parts = case.first.split(".")
        texts = [".".join(parts[:n]) + "." * (n < len(parts)) for n in range(1, len(parts) + 1)]
        for pattern in dict.fromkeys(p for text in texts for p in (joining.opened(text), text)):
            rule = Rule((pattern,), ("",), LEFT_OUT)
            if not any(rewrite(rule, key) is not None for key in ours):
                out.append(rule)
                break
    return out


def _renames(cases: list[Case], names: set[str]) -> list[Rule]:
    rules: list[Rule] = []
    while len(rules) < _MOST_RULES:
        best = _best(cases, names)
        if best is None:
            break
        rule, changes = best
        rules.append(rule)
        for n, key in changes.items():
            cases[n].key = key
            if rule.op != "copy":
                cases[n].op = "copy"
    return rules


def _best(cases: Sequence[Case], names: set[str]) -> tuple[Rule, dict[int, str]] | None:
    """The rule that mends most, and what it makes of which cases."""
    groups: dict[tuple[str, str, str], list[tuple[int, Example]]] = defaultdict(list)
    bounds: dict[tuple[str, str, str], float] = defaultdict(float)
    for n, case in enumerate(cases):
        if not case.goal or case.far == 0.0:
            continue
        more = _OP if case.op != "copy" else 0.0
        for kind, source, target in (*windows(case.key, case.goal), *_in_place(case)):
            form = (kind, _form(source), _form(target))
            example = (_numbers(source), _numbers(target))
            groups[form].append((n, example))
            bounds[form] += distance(source, target) + more
    at = {case.key for case in cases if case.goal}
    best: tuple[float, tuple[int, int, str], Rule, dict[int, str]] | None = None
    looked = 0
    for form in sorted(groups, key=lambda f: (-bounds[f], f)):
        if looked > _LOOKED_AT or (best is not None and bounds[form] < _NEARLY * best[0]):
            break
        for rule in _variants(form, groups[form], cases):
            looked += 1
            found = _gain(rule, cases, at, names)
            if found is None:
                continue
            gain, changes = found[0] * (1.0 if _whole(rule) else _HALF_A_NAME), found[1]
            gain -= _ENTRY * (rule.source[0] + rule.target[0]).count(",")
            order = (-round(gain, 6), _length(rule))
            if gain > 0.01 and (best is None or order < (-round(best[0], 6), best[1])):
                best = (gain, order[1], rule, changes)
    return None if best is None else (best[2], best[3])


def _whole(rule: Rule) -> bool:
    """Whether a rule speaks of whole names."""
    pattern = rule.source[0]
    return not pattern or pattern.endswith((".", "{undotted}")) or (pattern[0] != "*" and "." not in pattern)


def _length(rule: Rule) -> tuple[int, int, str]:
    """Rules with few open numbers and few letters are read more easily; the text breaks ties."""
    text = rule.source[0] + rule.target[0]
    return (text.count("{"), len(text), text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(t) for t in tokens(text) if t.isdigit())


def _in_place(case: Case) -> Iterator[tuple[str, str, str]]:
    """Stretches at the end of a name where only something is done to the tensor."""
    if case.op == "copy":
        return
    parts = case.key.split(".")
    for n in range(1, min(len(parts), 4)):
        text = ".".join(parts[-n:])
        yield "name", text, text
    yield "front", case.key, case.key


def _variants(form: tuple[str, str, str], rows: Sequence[tuple[int, Example]], cases: Sequence[Case]) -> list[Rule]:
    """Rules that say what the rows of a form say: for all of them, or for those with one number as it stands."""
    kind, source, target = form
    examples = list(dict.fromkeys(example for _, example in rows))
    ops = {cases[n].op for n, _ in rows}
    n = len(examples[0][0])
    fits = [fit(examples, {}), fit(examples, _constant(examples))]
    if len(examples) > 1:
        for i in range(n):
            values = sorted({e[0][i] for e in examples})
            if len(values) > 1:
                fits.append(fit(examples, {}, i))
                fits.append(fit(examples, {k: v for k, v in _constant(examples).items() if k != i}, i))
            if 1 < len(values) <= _LITERALS:
                for v in values:
                    some = [e for e in examples if e[0][i] == v]
                    fits += [fit(some, {i: v}), fit(some, _constant(some))]
    if n:
        fits.append(fit(examples[:1], dict(enumerate(examples[0][0]))))
    out = []
    star = {"front": ("", ""), "name": ("*", ""), "text": ("*", "*")}[kind]
    for found in dict.fromkeys(f for f in fits if f is not None):
        patterns = [star[0] + _put(text, holes) + star[1] for text, holes in zip((source, target), found, strict=True)]
        out += [
            Rule((patterns[0],), (patterns[1],), op)
            for op in sorted(ops | {"copy"})
            if op != "copy" or patterns[0] != patterns[1]
        ]
    return out


def _constant(examples: Sequence[Example]) -> dict[int, int]:
    """Numbers of the source that are the same in all examples."""
    first = examples[0][0]
    return {i: v for i, v in enumerate(first) if all(e[0][i] == v for e in examples)}


def _put(form: str, holes: Sequence[str]) -> str:
    parts = form.split("#")
    return "".join(part + hole for part, hole in zip(parts, (*holes, ""), strict=True))


def _gain(rule: Rule, cases: Sequence[Case], at: set[str], names: set[str]) -> tuple[float, dict[int, str]] | None:
    """How much nearer a rule brings all names to their goals; None where it makes one name of two."""
    gain = 0.0
    changes: dict[int, str] = {}
    for n, case in enumerate(cases):
        made = rewrite(rule, case.key)
        if made is None:
            continue
        changes[n] = made
        if not case.goal:
            gain -= _STOLEN if made in names else 0.0
            continue
        if rule.op != "copy" and rule.op != case.op:
            return None
        step_gain = distance(case.key, case.goal) - distance(made, case.goal) + (_OP if rule.op != "copy" else 0.0)
        gain += step_gain if step_gain >= 0 else _WORSE * step_gain
    ours = [key for n, key in changes.items() if cases[n].goal]
    if len(set(ours)) < len(ours) or at.intersection(ours) - {cases[n].key for n in changes}:
        return None
    return gain, changes

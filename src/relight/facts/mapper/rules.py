"""A few rules that say what many pairs say: learnt from the pairs, editable, and applied to keys alone.

A rule rewrites the front of a key, or a stretch anywhere in it: ``backbone.layer{a}.`` -> ``encoder.stages.{a-1}.``.
``*`` at the start stands for any front, and what follows the written part is kept as it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from relight.facts.mapper.pairs import Pair

_NUMBER = re.compile(r"\d+")
_HOLE = re.compile(r"\{([a-z])([+-]\d+)?\}")
_NUMBERS = re.compile(r"(?:\d+|\{[a-z](?:[+-]\d+)?\})+")
_NAMES = "abcdefghij"
_MOST = 400  # candidates of one round that are weighed in full


@dataclass(frozen=True, slots=True)
class Rule:
    """One rewrite.

    Attributes:
        source: Patterns of the keys in the checkpoint, several where they are put together.
        target: Pattern of the key in the model.
        op: What is done to the tensors.
    """

    source: tuple[str, ...]
    target: str
    op: str = "copy"

    def __str__(self) -> str:
        left = " + ".join(self.source)
        return f"{left} -> {self.target}" + ("" if self.op == "copy" else f"  [{self.op}]")


Applied = dict[str, tuple[tuple[str, ...], str]]


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    out, at = [], 0
    body = pattern.removeprefix("*")
    for hole in _HOLE.finditer(body):
        out.append(re.escape(body[at : hole.start()]))
        out.append(f"(?P<{hole[1]}>\\d+)")
        at = hole.end()
    out.append(re.escape(body[at:]))
    front = r"(?P<front>(?:.*\.)?)" if pattern.startswith("*") else ""
    return re.compile(front + "".join(out) + r"(?P<rest>.*)\Z", re.DOTALL)


def _filled(pattern: str, match: re.Match[str]) -> str | None:
    groups = match.groupdict()
    holes = {name: groups[name] for name in groups if len(name) == 1}
    out, at = [], 0
    body = pattern.removeprefix("*")
    for hole in _HOLE.finditer(body):
        value = holes.get(hole[1])
        if value is None:
            return None
        number = int(value) + int(hole[2] or 0)
        if number < 0:
            return None
        out.append(body[at : hole.start()])
        out.append(value if hole[2] is None else str(number))
        at = hole.end()
    out.append(body[at:])
    return (groups.get("front") or "") * pattern.startswith("*") + "".join(out) + groups["rest"]


def unsound(rule: Rule) -> str | None:
    """Why a rule that a person wrote can never be applied; None if it can."""
    first, *others = rule.source
    names = [hole[1] for hole in _HOLE.finditer(first)]
    if len(set(names)) < len(names):
        return "one name stands for two numbers"
    if any(hole[2] for hole in _HOLE.finditer(first)):
        return "what is added to a number belongs into the target"
    for pattern in (*others, rule.target):
        unknown = {hole[1] for hole in _HOLE.finditer(pattern)} - set(names)
        if unknown:
            return f"{{{min(unknown)}}} does not stand in {first!r}"
    return None


def rewrite(rule: Rule, key: str) -> tuple[tuple[str, ...], str] | None:
    """``(source keys, target key)`` that a rule makes of the first of its keys; None where it does not apply."""
    match = _compiled(rule.source[0]).match(key)
    if match is None:
        return None
    target = _filled(rule.target, match)
    others = [_filled(pattern, match) for pattern in rule.source[1:]]
    if target is None or any(o is None for o in others):
        return None
    return (key, *(o for o in others if o is not None)), target


def apply(rules: Sequence[Rule], keys: Iterable[str]) -> Applied:
    """What rules make of the keys of a checkpoint.

    The first rule that fits a key rewrites it; others of the same pattern, which give further parts of the tensor, as
    well. Rules that need several keys apply where all of them are there.

    Args:
        rules: In order.
        keys: Keys of the checkpoint.

    Returns:
        By target key: the source keys and the op.
    """
    listed = list(keys)
    there = set(listed)
    out: Applied = {}
    for key in listed:
        taken: str | None = None
        for rule in rules:
            if taken is not None and rule.source[0] != taken:
                continue
            made = rewrite(rule, key)
            if made is None or not all(s in there for s in made[0]):
                continue
            taken = rule.source[0]
            out.setdefault(made[1], (made[0], rule.op))
    return out


def learn(pairs: Iterable[Pair], keys: Iterable[str] = ()) -> list[Rule]:
    """Few rules that regenerate pairs.

    Args:
        pairs: What the mapper found.
        keys: All keys of the checkpoint: what is left over must not be rewritten to a key that a pair has.
    """
    wanted = {p.target: p for p in pairs}
    by_source: dict[str, list[Pair]] = defaultdict(list)
    for p in wanted.values():
        by_source[p.source[0]].append(p)
    listed = list(keys) or list(by_source)
    forms = _by_form(dict.fromkeys((*by_source, *listed)))
    candidates: dict[Rule, int] = defaultdict(int)
    for p in wanted.values():
        for rule in _readings(p):
            candidates[rule] += 1
    chosen: list[Rule] = []
    uncovered = set(wanted)
    ordered = sorted(candidates, key=lambda r: (-candidates[r], -len(r.source[0]), str(r)))
    covers: dict[Rule, tuple[set[str], int]] = {}
    while uncovered and ordered:
        best: tuple[float, Rule] | None = None
        for rule in ordered[:_MOST]:
            if rule not in covers:
                covers[rule] = _effect(rule, by_source, forms, wanted)
            right, wrong = covers[rule]
            gain = len(right & uncovered) - 1.5 * wrong
            if gain > 0 and (best is None or gain > best[0] or (gain == best[0] and _order(rule) < _order(best[1]))):
                best = (gain, rule)
        if best is None:
            break
        chosen.append(best[1])
        uncovered -= covers[best[1]][0]
        ordered = [r for r in ordered if r is not best[1] and (r not in covers or covers[r][0] & uncovered)]
    chosen.sort(key=_order)
    return _mended(_briefer(chosen, wanted, listed), wanted, listed)


KEEP = Rule(("",), "")  # whatever no other rule rewrites keeps its name


def _briefer(rules: list[Rule], wanted: dict[str, Pair], keys: Sequence[str]) -> list[Rule]:
    """The same with one rule for all names that stay, where that gives no other pair."""
    others = [r for r in rules if r.source != (r.target,) or r.op != "copy"]
    if len(others) == len(rules):
        return rules
    shorter = [*others, KEEP]
    before, after = apply(rules, keys), apply(shorter, keys)
    same = all(after.get(key) == (p.source, p.op) for key, p in wanted.items() if before.get(key) == (p.source, p.op))
    return shorter if same else rules


def _order(rule: Rule) -> tuple[int, int, str]:
    """The more of a key a rule names, the earlier it comes."""
    literal = len(_HOLE.sub("", rule.source[0]))
    return (rule.source[0].startswith("*"), -literal, str(rule))


def _form(text: str) -> str:
    """A key or a pattern with every number, given or left open, as one sign."""
    return _NUMBERS.sub("#", text)


# By form, and there by which number it is and what it says (None: any): keys that differ in other numbers only.
Forms = dict[str, dict[tuple[int, str] | None, list[str]]]


def _by_form(keys: Iterable[str]) -> Forms:
    out: Forms = {}
    for key in keys:
        here = out.setdefault(_form(key), {})
        here.setdefault(None, []).append(key)
        for place in enumerate(_NUMBER.findall(key)):
            here.setdefault(place, []).append(key)
    return out


def _reached(pattern: str, forms: Forms) -> Iterator[str]:
    """Keys that a pattern may fit; most fit few forms, and of those only what has the numbers that they name."""
    body = _form(pattern.removeprefix("*"))
    named = [(i, n[0]) for i, n in enumerate(_NUMBERS.finditer(pattern)) if n[0].isdigit()]
    for form, keys in forms.items():
        if pattern.startswith("*"):
            if form.startswith(body) or f".{body}" in form:
                yield from keys[None]
        elif form.startswith(body):
            # A number at the very end of a pattern may go on in the key.
            whole = named[:-1] if body.endswith("#") else named
            yield from min((keys.get(place, []) for place in whole), key=len, default=keys[None])


def _effect(
    rule: Rule, by_source: dict[str, list[Pair]], forms: Forms, wanted: dict[str, Pair]
) -> tuple[set[str], int]:
    """Target keys that a rule gives rightly, and how many keys it rewrites wrongly."""
    right: set[str] = set()
    wrong = 0
    for key in _reached(rule.source[0], forms):
        made = rewrite(rule, key)
        if made is None:
            continue
        pairs = by_source.get(key)
        if pairs is None:  # left over: it must not get the name of another
            wrong += made[1] in wanted
            continue
        hit = next((p for p in pairs if p.target == made[1] and p.source == made[0] and p.op == rule.op), None)
        if hit is not None:
            right.add(hit.target)
        elif not any(p.op.startswith(("split", "slice")) for p in pairs):
            wrong += 1
    return right, wrong


def _mended(rules: list[Rule], wanted: dict[str, Pair], keys: Iterable[str]) -> list[Rule]:
    """The rules, with one of its own for each pair that they do not give."""
    given = apply(rules, keys)
    own = [Rule(p.source, p.target, p.op) for p in wanted.values() if given.get(p.target) != (p.source, p.op)]
    return [*own, *rules]


def _readings(pair: Pair) -> set[Rule]:
    """Rules that give a pair: with more or less of the end, and of the front, kept."""
    first = pair.source[0].split(".")
    target = pair.target.split(".")
    others = [s.split(".") for s in pair.source[1:]]
    tail = 0
    while tail < min(len(first), len(target), *(len(o) for o in others)) and all(
        parts[-1 - tail] == first[-1 - tail] for parts in (target, *others)
    ):
        tail += 1
    head = 0
    while not others and head < min(len(first), len(target)) - 1 and first[head] == target[head]:
        head += 1
    out: set[Rule] = set()
    for kept in range(tail + 1):
        cut = [parts[: len(parts) - kept] for parts in (first, target, *others)]
        end = "." if kept else ""
        fronts = [".".join(c) + end if c else "" for c in cut]
        for rule in _numbered(fronts[0], fronts[1], fronts[2:], pair.op):
            out.add(rule)
        # A stretch in the middle: any front is kept as well.
        if not others:
            for skip in range(1, min(head, len(cut[0]), len(cut[1])) + 1):
                a, b = ".".join(cut[0][skip:]), ".".join(cut[1][skip:])
                if a and b:
                    for rule in _numbered(a + end, b + end, [], pair.op):
                        out.add(Rule(("*" + rule.source[0],), "*" + rule.target, rule.op))
    return out


def _numbered(source: str, target: str, others: Sequence[str], op: str) -> list[Rule]:
    """The rule for two fronts as they stand, and with numbers that both have left open."""
    plain = Rule((source, *others), target, op)
    numbers = list(_NUMBER.finditer(source))[: len(_NAMES)]
    if not numbers:
        return [plain]
    values = [int(n[0]) for n in numbers]
    theirs = [int(n[0]) for n in _NUMBER.finditer(target)]
    pattern = _opened(source, {i: (_NAMES[i], 0) for i in range(len(values))})
    out = [plain]
    for offsets in _offsets(values, theirs):
        goal = _opened(target, offsets)
        rest = [_opened(o, _offsets(values, [int(n[0]) for n in _NUMBER.finditer(o)])[0]) for o in others]
        out.append(Rule((pattern, *rest), goal, op))
    # Only the first number left open: later ones are names.
    if len(values) > 1:
        first = _opened(source, {0: ("a", 0)})
        for j, value in enumerate(theirs):
            if abs(value - values[0]) <= 1 and not others:
                out.append(Rule((first,), _opened(target, {j: ("a", value - values[0])}), op))
                break
    return out


def _offsets(values: Sequence[int], theirs: Sequence[int]) -> list[dict[int, tuple[str, int]]]:
    """Which number of the target is which of the source, in order, and by how much it differs."""
    out: dict[int, tuple[str, int]] = {}
    at = 0
    for j, value in enumerate(theirs):
        for i in range(at, len(values)):
            if abs(values[i] - value) <= 1:
                out[j] = (_NAMES[i], value - values[i])
                at = i + 1
                break
    exact = {j: (name, d) for j, (name, d) in out.items() if d == 0}
    return [out] if exact == out else [out, exact]


def _opened(text: str, holes: dict[int, tuple[str, int]]) -> str:
    """A text with some of its numbers left open: by which number it is, a name and what is added to it."""
    count = -1

    def put(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        if count not in holes:
            return match[0]
        name, offset = holes[count]
        return f"{{{name}}}" if not offset else f"{{{name}{offset:+d}}}"

    return _NUMBER.sub(put, text)

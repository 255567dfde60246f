"""``map`` in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from relight.facts.describe import tensors
from relight.facts.mapper.pairs import KeyMap
from relight.facts.mapper.rules import LEFT_OUT, Rule, fits, left, right
from relight.report.layout import Style, in_line, joined, shortened, wrapped

_ROWS = 12


def render(
    found: KeyMap, rules: Sequence[Rule], source: str, target: str, style: Style, *, everything: bool = False
) -> str:
    """The whole text, with a final newline."""
    return joined(_lines(found, rules, source, target, style, None if everything else _ROWS))


def _lines(
    found: KeyMap, rules: Sequence[Rule], source: str, target: str, style: Style, limit: int | None
) -> Iterator[str]:
    head = f"{in_line(source)} -> {in_line(target)}"
    if found.refused:
        yield style.paint(f"{head}: not mapped", "bold")
        yield from wrapped(f"{found.refused}.", style)
        return
    total = len(found.pairs) + len(found.initialised)
    complete = not found.initialised
    yield style.paint(f"{head}: {len(found.pairs):,} of {tensors(total)} found", "good" if complete else "bold")
    counts = Counter(p.confidence for p in found.pairs.values())
    said = ", ".join(f"{counts[level]:,} {level}" for level in ("certain", "likely", "ambiguous") if counts[level])
    if said:
        yield f"  {said}"
    if all(p.target == p.source[0] and p.op == "copy" for p in found.pairs.values()) and found.pairs:
        yield "  under the same names"
    elif rules:
        yield ""
        yield style.paint("rules", "bold")
        yield from _rules(found, rules, style, limit)
    if limit is None:
        yield ""
        yield style.paint("pairs", "bold")
        for p in found.pairs.values():
            note = ", ".join(n for n in ("" if p.op == "copy" else p.op, p.confidence, p.warning) if n)
            yield f"  {in_line(' + '.join(p.source))} -> {in_line(p.target)}  ({note})"
    for title, keys in (("stay initialised", found.initialised), ("left over", found.leftover)):
        if keys:
            yield ""
            yield style.paint(f"{title}: {tensors(len(keys))}", "bold")
            yield from (f"  {shortened(in_line(key), style.width - 2)}" for key in keys[:limit])
            if limit is not None and len(keys) > limit:
                yield f"  and {len(keys) - limit:,} more (--all)"
    if found.questions:
        yield ""
        yield style.paint("questions", "bold")
        for question in found.questions:
            yield from wrapped(question, style)


def _rules(found: KeyMap, rules: Sequence[Rule], style: Style, limit: int | None) -> Iterator[str]:
    keys = dict.fromkeys((*(s for p in found.pairs.values() for s in p.source), *found.leftover))
    counts = fits(rules, keys, (*found.pairs, *found.initialised))
    shown = rules[:limit]
    width = min(max(len(left(r)) for r in shown), style.width // 2)
    for rule, n in zip(shown, counts, strict=False):
        how = "" if rule.op in ("copy", LEFT_OUT) else f"{rule.op}, "
        yield f"  {in_line(left(rule) or 'any key').ljust(width)} -> {in_line(right(rule))}  ({how}{n:,})"
    if limit is not None and len(rules) > limit:
        yield f"  and {len(rules) - limit:,} more rules (--all)"
    if any(p.source == (key,) and p.op == "copy" for key, p in found.pairs.items()):
        yield "  the others keep their names"

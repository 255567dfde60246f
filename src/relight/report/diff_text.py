"""``diff`` in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import TensorEntry
from relight.facts.describe import shape, tensors
from relight.facts.diff import Difference, ValueChange
from relight.facts.tree import Node, folded, tree
from relight.report.layout import Style, in_line, joined, shortened, wrapped

_ROWS = 20


def render(difference: Difference, style: Style, *, everything: bool = False) -> str:
    """The whole text, with a final newline."""
    return joined(_lines(difference, style, None if everything else _ROWS))


def _lines(d: Difference, style: Style, limit: int | None) -> Iterator[str]:
    what = "no difference" if d.equal else "different"
    yield style.paint(f"{in_line(d.left)} -> {in_line(d.right)}: {what}", "good" if d.equal else "bold")
    known = tensors(d.same) if d.same else "no tensor"
    if d.values is None:
        compared = "; values not compared (--values)" if d.same else ""
    else:
        compared = f"; {d.values_equal:,} bit-equal" if d.values_equal or d.values else ""
    yield f"  {known} with the same name, shape, dtype and device{compared}"
    for change in d.about:
        yield from wrapped(f"{change.name}: {change.left} -> {change.right}", style)
    if d.hyper_parameters:
        yield ""
        yield style.paint("hyper_parameters", "bold")
        width = min(max(len(c.name) for c in d.hyper_parameters), 28)
        for change in d.hyper_parameters[:limit]:
            text = shortened(f"{change.left} -> {change.right}", style.width - width - 4)
            yield f"  {shortened(in_line(change.name), width).ljust(width)}  {text}"
        yield from _more(len(d.hyper_parameters), limit)
    for title, entries, sign in (("only in the first", d.removed, "-"), ("only in the second", d.added, "+")):
        if entries:
            yield ""
            yield style.paint(f"{title}: {tensors(len(entries))}", "bold")
            rows = list(_modules(entries))
            yield from (f"  {sign} {row}" for row in rows[:limit])
            yield from _more(len(rows), limit)
    if d.tensors:
        yield ""
        yield style.paint(f"changed: {tensors(len(d.tensors))}", "bold")
        width = min(max(len(c.name) for c in d.tensors), 44)
        for change in d.tensors[:limit]:
            yield f"  {in_line(change.name).ljust(width)}  {change.left} -> {change.right}"
        yield from _more(len(d.tensors), limit)
    if d.values:
        yield ""
        yield style.paint(f"other values: {tensors(len(d.values))}", "bold")
        width = min(max(len(v.key) for v in d.values), 44)
        for value in sorted(d.values, key=lambda v: -(v.relative or 0))[:limit]:
            yield f"  {in_line(value.key).ljust(width)}  {_value(value)}"
        yield from _more(len(d.values), limit)


def _more(count: int, limit: int | None) -> Iterator[str]:
    if limit is not None and count > limit:
        yield f"  ... {count - limit} more (--all)"


def _value(v: ValueChange) -> str:
    if v.unread is not None:
        return f"not compared: {v.unread}"
    text = f"{v.differing:,} of {v.numel:,}"
    if v.largest is not None:
        text += f", by up to {v.largest:.3g}"
    if v.relative is not None:
        text += f" ({v.relative:.2g} of the norm)"
    return text


def _modules(entries: tuple[TensorEntry, ...]) -> Iterator[str]:
    """One row per module, runs of equal ones folded."""
    stack: list[tuple[str, Node]] = [("", folded(tree(entries)))]
    while stack:
        prefix, node = stack.pop()
        if node.tensors:
            parts = "  ".join(f"{t.key.rpartition('.')[2]} {shape(t.shape)}" for t in node.tensors[:4])
            parts += f"  and {len(node.tensors) - 4} more" if len(node.tensors) > 4 else ""
            count = f" (x{node.count})" if node.count > 1 else ""
            yield in_line(f"{prefix}{count}  {parts}".strip() if prefix else parts)
        stack += [(f"{prefix}.{c.name}" if prefix else c.name, c) for c in reversed(node.children)]

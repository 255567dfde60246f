"""The receipt of a conversion, as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.conversion import Conversion
from relight.core.finding import Evidence
from relight.report.layout import Style, columns, joined, wrapped

_WHAT = {"rest": "what is no weight", "rest-tensors": "tensors that are no weights"}
_MOST = 10  # lines of one kind


def text(done: Conversion, style: Style) -> str:
    """The whole text, with a final newline."""
    return joined(_text(done, style))


def _text(done: Conversion, style: Style) -> Iterator[str]:
    first = done.outputs[0]
    count = f"{done.tensors:,} tensor{'' if done.tensors == 1 else 's'}"
    yield style.paint(f"{first.path}: written, {count}, {first.nbytes:,} bytes, proved", "good")
    rows = [Evidence(what, how) for what, how in done.changes]
    rows += [Evidence(o.path, f"{_WHAT.get(o.what, o.what)}, {o.nbytes:,} bytes") for o in done.outputs[1:]]
    yield from columns(tuple(_few(rows)), style)
    yield from wrapped("Read again: " + "; ".join(dict.fromkeys(t for _, _, t in done.checks)) + ".", style)
    if done.left_out:
        yield ""
        yield "Not in it:"
        yield from columns(tuple(_few([Evidence(what, why) for what, why in done.left_out])), style)


def _few(rows: list[Evidence]) -> list[Evidence]:
    if len(rows) <= _MOST:
        return rows
    return [*rows[: _MOST - 1], Evidence("...", f"{len(rows) - _MOST + 1} more, in --format json")]

"""A plan, and the receipt of a repair, as people read them: one screen."""

from __future__ import annotations

import json
from collections.abc import Iterator

from relight.core.edits import Plan, Receipt, SetEntry
from relight.core.finding import Evidence
from relight.core.manifest import Manifest
from relight.facts import replay
from relight.facts.describe import counted, listed, some, tensors
from relight.repair.rewriter import words
from relight.report.layout import Style, columns, joined, wrapped

_MOST = 12  # lines of changes


def receipt(done: Receipt, style: Style) -> str:
    """The whole text, with a final newline."""
    return joined(_receipt(done, style))


def plan(made: Plan, style: Style) -> str:
    """The same for a plan that nobody has carried out."""
    return joined(_plan(made, style))


def sealed(done: Receipt, target: str, style: Style) -> str:
    """What a manifest that was added to a file describes."""
    return joined(_sealed(done, target, style))


def _sealed(done: Receipt, target: str, style: Style) -> Iterator[str]:
    edit = next(e for e in done.plan.edits if isinstance(e, SetEntry))
    manifest = Manifest(json.loads(str(edit.value)))
    yield style.paint(f"{done.written.path}: written, sealed with {target} as it is today", "good")
    make = manifest.make
    parts = [] if make is None else [counted(len(make.modules), "module")]
    if make is not None and make.functions:
        parts.append(f"the code of {some(make.functions, 3)}")
    parts.append(f"digests of {tensors(len(manifest.part('integrity').get('tensors', ())))}")
    yield from wrapped(f"Described: {', '.join(parts)}.", style)
    probe = manifest.part("probe")
    if probe:
        yield from wrapped(f"Asked with an input of {replay.form_text(probe.get('input'))}: its answer is kept.", style)
    else:
        reason = manifest.omitted.get("probe", "").partition(": ")[2] or "it gave no answer"
        advice = " --input SHAPE, as in --input 8x3x32x32, asks it." if reason == "no form of an input is known" else ""
        yield from wrapped(f"Not asked: {reason}.{advice}", style)
    yield from wrapped("It tells the code of today, not that of the training run: a refactoring comes after it.", style)
    yield from wrapped(_untouched(done), style)


def _receipt(done: Receipt, style: Style) -> Iterator[str]:
    written = done.written
    count = len(written.changes)
    head = f"{written.path}: written, {count} change{'' if count == 1 else 's'}, "
    head += "proved" if done.proved else f"proved but for what is {listed(_reserved(done))}"
    yield style.paint(head, "good" if done.proved else "bold")
    yield from _changes(written.changes, style)
    yield from wrapped(_untouched(done), style)
    yield from wrapped(_answer(done), style)
    yield from _reservations(done, style)
    yield from _not_done(done.plan, style)


def _reserved(done: Receipt) -> list[str]:
    named = (("assumed", done.assumed), ("left out", done.written.dropped), ("invented", done.written.invented))
    return [word for word, lines in named if lines]


def _reservations(done: Receipt, style: Style) -> Iterator[str]:
    """What no check can confirm, in full: it is for the reader to know."""
    for title, lines in (
        ("Assumed, not proved:", done.assumed),
        ("Left out, and only in the old file:", done.written.dropped),
        ("Invented, in no file:", done.written.invented),
    ):
        if lines:
            yield ""
            yield title
            for what, text in lines[:_MOST]:
                yield from wrapped(f"{what}: {text}", style)
            if len(lines) > _MOST:
                yield from wrapped(f"and {len(lines) - _MOST} more, in --format json", style)


def _changes(changes: tuple[tuple[str, str], ...], style: Style) -> Iterator[str]:
    lines = list(changes)
    if len(lines) > _MOST:
        lines = [*lines[: _MOST - 1], ("...", f"{len(lines) - _MOST + 1} more, in --format json")]
    yield from columns(tuple(Evidence(what, text) for what, text in lines), style)


def _untouched(done: Receipt) -> str:
    written = done.written
    if not written.untouched:
        return "No tensor is as it was."
    are = "tensor is" if written.untouched == 1 else "tensors are"
    changed = f"; {written.changed:,} made of others" if written.changed else ""
    how = next((text for what, _, text in done.checks if what == "untouched tensors"), "")
    return f"{written.untouched:,} {are} what {'it was' if written.untouched == 1 else 'they were'}{changed}: {how}."


def _answer(done: Receipt) -> str:
    left = f"left: {', '.join(done.left)}" if done.left else "no findings" if done.verdict else "not asked"
    parts = [f"Checked again: {left}."]
    if done.loaded == "yes":
        parts.append(f"Really loaded, by {done.loaded_by}.")
    elif done.loaded_by:
        parts.append(f"Not loaded: {done.loaded_by}.")
    return " ".join(parts)


def _not_done(made: Plan, style: Style) -> Iterator[str]:
    rest = [c for c in made.rejected if not c.reason.startswith("another fix")]
    if rest:
        yield ""
        yield "Not done:"
        for choice in rest:
            yield from wrapped(f"{choice.title} ({choice.reason})", style)


def _plan(made: Plan, style: Style) -> Iterator[str]:
    if not made.edits:
        yield f"{made.source}: nothing would be done to it"
    else:
        count = len(made.edits)
        yield style.paint(f"{made.source}: {count} edit{'' if count == 1 else 's'} would be made", "bold")
        yield from _changes(tuple(_words(made)), style)
        yield ""
        yield "For:"
        for choice in made.chosen:
            yield from wrapped(f"{choice.message} [{choice.name}]", style)
    yield from _not_done(made, style)


def _words(made: Plan) -> Iterator[tuple[str, str]]:
    from relight.core.edits import MakePlain

    yield from words(made.edits)
    for edit in made.edits:
        if isinstance(edit, MakePlain):
            yield from ((where, f"{was} -> {becomes}") for where, was, becomes in edit.changes)

"""Several models in a terminal: how much of each fits, and then the report for the best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from relight.core.finding import Severity, Verdict
from relight.engine.ranking import Candidate
from relight.facts.describe import counted, some
from relight.report import text
from relight.report.layout import Style, in_line, joined, titled, wrapped

if TYPE_CHECKING:
    from relight.report.printable import Ranking

_ROWS = 12


def render(ranking: Ranking, style: Style, *, verbose: bool = False) -> str:
    """The whole text, with a final newline."""
    return joined(_lines(ranking, style, verbose=verbose))


def headline(ranking: Ranking) -> str:
    """The first line without the path."""
    answer = text.headline(ranking.report)
    count = len(ranking.candidates)
    if count == 1:
        return answer
    built = sum(bool(c.target.get("built")) for c in ranking.candidates)
    if not built:
        return f"none of {count} classes could be built"
    rest = f"; {count - built:,} could not be built" if built < count else ""
    if ranking.best is None:
        return f"fits none of {counted(built, 'class', 'classes')}{rest}"
    if built == 1:
        return f"{answer}{rest}"
    return f"{answer}, the best of {built:,} classes{rest}"


def table(ranking: Ranking) -> list[tuple[str, str, str]]:
    """Rows of name, what fits, and what is wrong with that model; what is wrong with the file alone is said below."""
    names = [c.name for c in ranking.candidates]
    double = {n for n in names if names.count(n) > 1}
    found = [[f.name for f in c.report.all_findings if f.severity is not Severity.NOTE] for c in ranking.candidates]
    everywhere = set.intersection(*map(set, found)) if len(found) > 1 else set()
    rows = []
    for candidate, names_found in zip(ranking.candidates, found, strict=True):
        own = list(dict.fromkeys(n for n in names_found if n not in everywhere))
        name = str(candidate.target["argument"]) if candidate.name in double else candidate.name
        rows.append((name, _fit(candidate), f"[{some(own, 1)}]" if own else ""))
    return rows


def _lines(ranking: Ranking, style: Style, *, verbose: bool) -> Iterator[str]:
    report = ranking.report
    kind = {Verdict.FAILS: "error", Verdict.LOADS_WRONG: "warning", Verdict.LOADS: "good"}.get(report.verdict, "bold")
    yield style.paint(f"{ranking.origin}: {headline(ranking)}", kind)
    rows = table(ranking)
    if len(rows) > 1:
        shown = rows if verbose else rows[:_ROWS]
        width = min(max(len(in_line(name)) for name, _, _ in shown), 40)
        for candidate, (name, fit, wrong) in zip(ranking.candidates, shown, strict=False):
            yield from titled(f"  {in_line(name).ljust(width)}  {fit}", wrong, style, indent="    ")
            if not candidate.target.get("built"):
                yield from wrapped(_reason(candidate), style, indent="    ")
        if len(rows) > len(shown):
            yield f"  ... and {len(rows) - len(shown):,} more, of which less fits (-v lists them)"
    if ranking.as_good:
        names_as_good = some([c.name for c in ranking.as_good])
        yield from wrapped(f"As good: {names_as_good}. Names and shapes of tensors cannot tell them apart.", style)
    yield from text.body(report, style, verbose=verbose)


def _fit(candidate: Candidate) -> str:
    fit = candidate.fit
    if fit is None:
        return "no weights to compare" if candidate.target.get("built") else "could not be built"
    out = [f"{fit.fits:,} of {counted(fit.file, 'tensor')}"]
    if fit.renamed:
        out.append(f"{fit.renamed:,} renamed")
    if fit.mismatched:
        out.append(f"{fit.mismatched:,} of another shape")
    lacking = fit.model - fit.fits - fit.mismatched - fit.renamed
    if lacking > 0:
        out.append(f"{lacking:,} missing")
    return ", ".join(out)


def _reason(candidate: Candidate) -> str:
    """Why there is no model of a class."""
    errors = [f.message for f in candidate.report.all_findings if f.severity is Severity.ERROR]
    return next(iter([*errors, *candidate.report.unknown]), "no reason is known")

"""A report to paste into a thread: the same words as in the terminal, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from relight.core.finding import Reference, Report, Verdict
from relight.report.layout import clean, shortened
from relight.report.text import about_file, headline

if TYPE_CHECKING:
    from relight.report.printable import Ranking


def render(report: Report) -> str:
    """The whole text, with a final newline."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def render_ranking(ranking: Ranking) -> str:
    """Several models: a table, and the report for the best."""
    from relight.report.ranking_text import headline as ranking_headline
    from relight.report.ranking_text import table

    lines = [f"**`{clean(ranking.origin)}`: {_escaped(ranking_headline(ranking))}**", "", "| class | fits | finds |"]
    lines.append("|---|---|---|")
    lines += [f"| `{name}` | {_escaped(fit)} | {_escaped(wrong)} |" for name, fit, wrong in table(ranking)]
    return "\n".join([*lines, "", *_lines(ranking.report)]).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"**`{clean(report.origin)}`: {_escaped(headline(report))}**"
    yield ""
    if report.verdict in (Verdict.UNKNOWN, Verdict.LOADS):
        if report.target is None:
            yield _escaped(about_file(report))
            yield ""
        yield from (f"Not known: {_escaped(u)}." for u in report.unknown if report.target is not None)
    for note in report.notes:
        yield _escaped(note)
        yield ""
    for finding in report.findings:
        yield f"### {finding.severity.value}: {_escaped(finding.message)} `[{finding.name}]`"
        yield ""
        if finding.evidence:
            for e in finding.evidence:
                where = f" ({clean(e.where)})" if e.where else ""
                yield f"- `{clean(e.what)}` {_escaped(e.text)}{where}".rstrip()
            yield ""
        for paragraph in finding.context:
            yield _escaped(paragraph)
            yield ""
        if finding.predicts is not None and finding.predicts == report.prediction:
            p = finding.predicts
            yield f"`{p.call}` raises `{p.exception}`: `{shortened(p.message, 300)}`"
            yield ""
        for fix in finding.fixes:
            yield _escaped(fix.title)
            yield ""
            for language, text in (("console", fix.command), ("python", fix.code)):
                if text:
                    yield f"```{language}"
                    yield from clean(text).splitlines()
                    yield "```"
                    yield ""
            if fix.note:
                yield _escaped(fix.note)
                yield ""
        for why in report.explanations:
            if why.code == finding.code:
                yield f"Why: {_escaped(why.why)}"
                yield ""
                yield from (f"- {_linked(r)}" for r in why.references)
                yield ""
    for s in report.suppressed:
        yield f"- not shown: {_escaped(s.finding.message)} `[{s.finding.name}]` ({s.how.value}: {_escaped(s.reason)})"
    if report.suppressed:
        yield ""
    if report.stopped:
        yield _escaped(report.stopped)
        yield ""
    env = report.environment
    if env.get("known"):
        yield (
            f"<sub>relight check --for {report.intent}; python {env.get('python')}, torch {env.get('torch')}, "
            f"lightning {env.get('lightning')}</sub>"
        )


def _linked(reference: Reference) -> str:
    text = _escaped(reference.text)
    return f"[{text}]({reference.url})" if reference.url else text


def _escaped(text: str) -> str:
    """Text that Markdown takes literally: names may hold underscores, stars and angle brackets."""
    out = clean(text)
    for character in ("\\", "`", "*", "_", "<", ">", "[", "]", "#", "|"):
        out = out.replace(character, f"\\{character}")
    return out

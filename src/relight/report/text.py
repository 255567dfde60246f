"""A report as people read it in a terminal: verdict, cause, evidence, what to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from relight.core.finding import Explanation, Finding, Fix, Prediction, Report, Severity, Stage, Suppression, Verdict
from relight.core.safety import Safety
from relight.facts.describe import some
from relight.report.layout import Style, columns, joined, shortened, titled, verbatim, wrapped

_HOW = {
    Suppression.IGNORED: "ignored",
    Suppression.NOT_SELECTED: "not selected",
    Suppression.BASELINE: "in the baseline",
}
_NAMED = 2  # names that the first line has room for


def render(report: Report, style: Style, *, verbose: bool = False) -> str:
    """The whole text, with a final newline."""
    return joined(_lines(report, style, verbose=verbose))


def _lines(report: Report, style: Style, *, verbose: bool) -> Iterator[str]:
    kind = {Verdict.FAILS: "error", Verdict.LOADS_WRONG: "warning", Verdict.LOADS: "good"}.get(report.verdict, "bold")
    yield style.paint(f"{report.origin}: {headline(report)}", kind)
    yield from body(report, style, verbose=verbose)


def body(report: Report, style: Style, *, verbose: bool) -> Iterator[str]:
    """All that stands below the first line."""
    if report.verdict in (Verdict.UNKNOWN, Verdict.LOADS):
        yield from _about(report, style)
    for note in report.notes:
        yield from wrapped(note, style)
    yield from _findings(report, style)
    if report.safety is Safety.DANGEROUS and not report.findings:
        yield from wrapped("Safety: dangerous.", style)
    if report.stopped:
        yield ""
        yield from wrapped(report.stopped, style, indent="")
    if report.suppressed and (verbose or not _all_named(report)):
        yield ""
        yield from _suppressed(report, style, verbose=verbose)
    for crash in report.crashed:
        yield ""
        yield from wrapped(f"relight: rule {crash.code} crashed ({crash.error}); please report it.", style, indent="")
    if verbose:
        yield from _verbose(report, style)


def headline(report: Report) -> str:
    """The first line without the path: the answer, into what, and what says so where that is not shown."""
    answer = _answer(report)
    if not report.accepted:
        return answer
    names: dict[Suppression, list[str]] = {}
    for s in report.accepted:
        if s.finding.name not in names.setdefault(s.how, []):
            names[s.how].append(s.finding.name)
    parts = [f"{some(found, _NAMED)}: {_HOW[how]}" for how, found in names.items()]
    return "; ".join([answer.rstrip("."), *parts])


def _all_named(report: Report) -> bool:
    """Whether the first line names everything that is not shown."""
    return len(report.accepted) == len(report.suppressed) and len({s.code for s in report.suppressed}) <= _NAMED


def _answer(report: Report) -> str:
    into = _into(report)
    if report.verdict is Verdict.FAILS:
        first = report.prediction
        built = first is not None and first.stage in (Stage.IMPORT, Stage.CONSTRUCT)
        if built and report.target is not None and report.summary.get("tensors"):
            return f"the file is sound, but {into} cannot be built"
        if report.target is not None:
            verb = "resume" if report.intent == "resume" else "load"
            return f"will not {verb} into {into}"
        if report.intent == "weights":
            return "will not load with a plain torch.load"
        return (
            "will not load here" if any(not f.code.startswith("RL1") for f in report.all_findings) else "will not load"
        )
    if report.verdict is Verdict.LOADS_WRONG:
        verb = "resumes" if report.intent == "resume" else "loads"
        return f"{verb} WITHOUT AN ERROR, BUT WRONG, into {into}"
    if report.verdict is Verdict.LOADS:
        at = report.summary.get("resumes_at")
        return f"resumes into {into} at epoch {at['epoch']}, step {at['step']}" if at else f"loads into {into}"
    if report.target is None:
        if report.all_findings:
            return "not compared with a model yet"
        return "the file is sound. Not compared with a model yet."
    if not report.target.get("built"):
        return f"the file is sound; {into} could not be built"
    verb = "resume" if report.intent == "resume" else "load"
    return f"may {verb} into {into}; not everything could be checked"


def _into(report: Report) -> str:
    target = report.target
    if target is None:
        return "a model"
    name = target.get("class") or target.get("argument") or "the model"
    file = target.get("file")
    return f"{name} ({file})" if file else str(name)


def _about(report: Report, style: Style) -> Iterator[str]:
    """What is known of the file, and what was left open."""
    if report.target is None:
        yield from wrapped(about_file(report), style)
        if report.candidates:
            several = len(report.candidates) > 1
            yield from wrapped(
                f"To compare it with {'a LightningModule' if several else 'the LightningModule'} in this folder:", style
            )
            for candidate in report.candidates[:5]:
                yield f"    relight check {shlex.quote(report.origin)} --target {shlex.quote(candidate)}"
            file = report.candidates[0].rpartition(":")[0]
            if sum(c.rpartition(":")[0] == file for c in report.candidates) > 2:
                yield from wrapped(f"Or all of {file}, ranked by what fits:", style)
                yield f"    relight check {shlex.quote(report.origin)} --target {shlex.quote(f'{file}:*')}"
        else:
            yield from wrapped("To compare it with a model: --target package.module:Class, or file.py:Class.", style)
    elif report.unknown:
        for sentence in report.unknown:
            yield from wrapped(f"Not known: {sentence}.", style)


def about_file(report: Report) -> str:
    """The file in one line, like ``Lightning 2.6.6, epoch 10, step 40; 4 tensors, 241 values; Adam state.``."""
    s = report.summary
    parts: list[str] = []
    if s.get("lightning"):
        when = [f"Lightning {s['lightning']}"]
        if s.get("epoch") is not None:
            when.append(f"epoch {s['epoch']}")
        if s.get("global_step") is not None:
            when.append(f"step {s['global_step']}")
        parts.append(", ".join(when))
    else:
        parts.append(
            {
                "state-dict": "A plain state_dict",
                "training-state": "A training state of another program",
                "module": "A whole pickled object",
                "lightning": "A Lightning file that states no version",
            }.get(str(s.get("kind")), f"Layout {s.get('layout')}")
        )
    n, values = int(s.get("tensors") or 0), int(s.get("values") or 0)
    parts.append(f"{n:,} tensor{'' if n == 1 else 's'}, {values:,} value{'' if values == 1 else 's'}")
    families = list(dict.fromkeys(s.get("optimizers") or ()))
    if families:
        parts.append(f"{' and '.join('optimizer' if f == 'optimizer' else f for f in families)} state")
    return "; ".join(parts) + "."


def _findings(report: Report, style: Style) -> Iterator[str]:
    first = report.prediction
    quoted = said_later = False
    explained: set[str] = set()
    hidden = next((s.finding for s in report.suppressed if first is not None and s.finding.predicts == first), None)
    above = "the above" if hidden is None or any(f.predicts == first for f in report.findings) else f"{hidden.name}"
    for finding in report.findings:
        yield ""
        predicts = finding.predicts if finding.severity is Severity.ERROR else None
        if first is not None and predicts is not None and predicts.stage > first.stage and not said_later:
            said_later = True
            yield from wrapped(f"Shows only once {above} is mended:", style, indent="")
            yield ""
        quote = predicts is not None and predicts == first and not quoted and not _states_exception(finding)
        quoted = quoted or quote
        # Said once for a rule, however many findings it has.
        why = (
            None
            if finding.code in explained
            else next((e for e in report.explanations if e.code == finding.code), None)
        )
        explained.add(finding.code)
        yield from _finding(finding, style, exception=quote, explanation=why)


def _states_exception(finding: Finding) -> bool:
    return any(
        finding.predicts is not None and finding.predicts.exception.rpartition(".")[2] in c for c in finding.context
    )


def _finding(
    finding: Finding, style: Style, *, exception: bool, explanation: Explanation | None = None
) -> Iterator[str]:
    severity = finding.severity.value
    lines = titled(f"{severity}: {finding.message}", f"[{finding.name}]", style, indent=" " * (len(severity) + 2))
    yield lines[0].replace(f"{severity}:", style.paint(f"{severity}:", severity), 1)
    yield from lines[1:]
    yield from columns(finding.evidence, style)
    for paragraph in finding.context:
        yield from wrapped(paragraph, style)
    if exception and finding.predicts is not None:
        yield from wrapped(quoted(finding.predicts, 3 * style.width - 8), style)
    for i, fix in enumerate(finding.fixes):
        if i == 0 or fix.code or fix.command or finding.fixes[i - 1].code or finding.fixes[i - 1].command:
            yield ""
        yield from _fix(fix, style)
    if explanation is not None:
        yield ""
        yield from _why(explanation, style)


def quoted(prediction: Prediction, limit: int) -> str:
    """What will be raised, and where: torch's list of keys or shapes shortened entry by entry, never within one."""
    raises = f"{prediction.call} raises {prediction.exception}"
    paragraphs = (prediction.message.partition("\n\t")[2] or prediction.message).split("\n\t")
    if not paragraphs[0]:
        return raises
    whole = " ".join(" ".join(paragraphs).split())
    if len(raises) + 2 + len(whole) <= limit:
        return f"{raises}: {whole}"
    sizes = [p for p in paragraphs if p.startswith(_SIZES)]
    shown = [p for p in paragraphs if not p.startswith(_SIZES)] + sizes[:1]
    room = (limit - len(raises)) // len(shown)
    parts = [_listing(" ".join(p.split()), room) for p in shown]
    if len(sizes) > 1:
        parts[-1] = f"{parts[-1].rstrip(' .')} ... and {len(sizes) - 1:,} more."
    return f"{raises}: {' '.join(parts)}"


_SIZES = "size mismatch for "


def _listing(paragraph: str, room: int) -> str:
    """``Missing key(s) in state_dict: "a", "b" ... and 318 more.``; any other text shortened."""
    head, colon, keys = paragraph.partition(": ")
    if head.startswith(_SIZES):
        return paragraph if len(paragraph) <= room else f"{head} ..."
    names = keys.rstrip(". ").split(", ")
    if not colon or not all(n.startswith('"') and n.endswith('"') for n in names):
        return shortened(paragraph, max(room, 40))
    kept = [names[0]]
    while len(kept) < len(names) and len(head) + sum(len(n) + 2 for n in kept) + len(names[len(kept)]) + 16 < room:
        kept.append(names[len(kept)])
    left = len(names) - len(kept)
    return f"{head}: {', '.join(kept)}{f' ... and {left:,} more' if left else ''}."


def _why(explanation: Explanation, style: Style) -> Iterator[str]:
    """What the page of the rule says, and where one can see for oneself."""
    yield from wrapped(f"Why: {explanation.why}", style)
    for reference in explanation.references:
        yield from wrapped(f"Settled by: {reference.text}", style)
        if reference.url:
            yield from verbatim(reference.url)
    yield from wrapped(f"More: relight explain {explanation.name}", style)


def _fix(fix: Fix, style: Style) -> Iterator[str]:
    yield from wrapped(fix.title, style)
    if fix.command:
        yield from verbatim(fix.command)
    if fix.code and not fix.edits:  # the command does the same; the program stays in the JSON
        yield from verbatim(fix.code)
    if fix.note:
        yield from wrapped(fix.note, style, indent="    " if fix.code or fix.command else "  ")


def _suppressed(report: Report, style: Style, *, verbose: bool) -> Iterator[str]:
    """What was found and is not shown: in a line, or with -v each with its reason."""
    if not verbose:
        by_setting: dict[Suppression, list[str]] = {}
        for s in report.suppressed:
            by_setting.setdefault(s.how, []).append(s.finding.name)
        parts = [f"{some(dict.fromkeys(names))} ({_HOW[how]})" for how, names in by_setting.items()]
        yield from wrapped(f"Not shown: {'; '.join(parts)}.", style, indent="")
        return
    yield "Not shown:"
    for s in report.suppressed:
        finding = s.finding
        left = f"  {finding.severity.value}: {finding.message}"
        yield from titled(left, f"[{finding.name}]", style, indent="    ")
        yield from wrapped(f"{_HOW[s.how]}: {s.reason}", style, indent="    ")


def _verbose(report: Report, style: Style) -> Iterator[str]:
    if report.skipped:
        yield ""
        yield "Not asked:"
        reasons: dict[str, list[str]] = {}
        for s in report.skipped:
            reasons.setdefault(s.reason, []).append(s.code)
        for reason, codes in reasons.items():
            yield from wrapped(f"{', '.join(codes)}: {reason}", style)

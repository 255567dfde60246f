"""What relight says of a broken file, beside what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from relight import api
from relight.core.checkpoint import Checkpoint
from relight.core.finding import FixKind, Report, Severity
from relight.core.target import ModelSpec
from relight.facts.safety import safety
from relight.reader import open_checkpoint

# With these the tensors are there after something was done to the file, or with another function.
_CAN_BE_HAD = (FixKind.FILE, FixKind.CODE, FixKind.LOAD_ARGUMENT)


def recoverable(checkpoint: Checkpoint, report: Report) -> str:
    """How many tensors can be had, as relight states it."""
    gone = len(checkpoint.lost) + len(set(checkpoint.refused) - {t.key for t in checkpoint.lost})
    if checkpoint.tensors:
        return "some" if gone else "all"
    if gone:
        return "none"
    fixes = [fix for finding in report.findings for fix in finding.fixes if fix.command or fix.code]
    return "all" if any(fix.kind in _CAN_BE_HAD for fix in fixes) else "none"


def answers(path: Path, spec: ModelSpec | None, truth: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """(question, answer, right answers) about one file."""
    intent = {"resume": "resume", "torch.load": "weights"}.get(truth.get("shows_in") or "", "load")
    report = api.check(path, target=spec, intent=intent, weights_only=False)
    checkpoint = open_checkpoint(path)
    told = [f.cause for f in report.findings if f.severity is not Severity.NOTE] or [f.cause for f in report.findings]
    first = told[0] if told else "nothing"
    right = [*truth["accept"], *(["nothing"] if truth.get("empty_is_right") or not truth["accept"] else [])]
    yield "cause", first, right
    wanted = truth["verdict_resume"] if intent == "resume" else truth["verdict"]
    # Where nothing speaks against it the verdict is unknown: nobody can vouch for values.
    yield "verdict", report.verdict.value, [wanted, *(["unknown", "loads"] if wanted == "loads" else [])]
    yield "safety", safety(checkpoint).value, truth.get("safety_accept") or [truth["safety"]]
    said = recoverable(checkpoint, report)
    yield "recoverable", said, truth.get("recoverable_accept") or [truth["recoverable"]]
    codes = [(f.code, f.message) for f in report.findings]
    yield "findings", "once each" if len(codes) == len(set(codes)) else f"twice: {codes}", ["once each"]

"""Phases, gating, isolation of rules that crash, and the verdict."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from relight.core.errors import MissingFact
from relight.core.finding import (
    Confidence,
    Crashed,
    Finding,
    Fix,
    Report,
    Severity,
    Skipped,
    Stage,
    Verdict,
)
from relight.core.target import FailureKind, IntentCall, Target
from relight.engine.choice import Choice
from relight.engine.notes import notes
from relight.engine.summary import summary
from relight.facts.describe import some
from relight.facts.facts import Facts
from relight.facts.question import literal, passed
from relight.facts.repairable import repairable
from relight.facts.safety import safety
from relight.facts.versions import at_least
from relight.rulekit.rule import Rule


def diagnose(facts: Facts, rules: Iterable[type[Rule]], *, choice: Choice | None = None) -> Report:
    """Ask every rule and answer the question.

    All rules are asked, whatever is chosen: what is not shown still decides the verdict and what raises first.

    Args:
        facts: All that is known.
        rules: Rule classes, in any order.
        choice: Which findings the user wants to see; None for all.

    Returns:
        The report. A rule that raises becomes a `Crashed` entry and never ends the run.
    """
    everything: list[Finding] = []
    skipped: list[Skipped] = []
    crashed: list[Crashed] = []
    gate: Finding | None = None
    for rule in sorted(rules, key=lambda r: (r.phase, r.code)):
        if gate is not None and rule.phase > _phase_of(gate, rules):
            skipped.append(Skipped(rule.code, f"because {gate.code}: {gate.message}"))
            continue
        try:
            _need(facts, rule.needs)
            found = list(rule().check(facts))
        except MissingFact as missing:
            skipped.append(Skipped(rule.code, missing.reason))
            continue
        except Exception as error:  # a defect of that rule must not hide the answers of the others
            crashed.append(Crashed(rule.code, _where(error)))
            continue
        everything += found
        if gate is None and rule.gates:
            gate = next((f for f in found if f.severity is Severity.ERROR), None)
    everything.sort(key=_root_cause_first)
    suppressed = [s for f in everything if choice is not None and (s := choice.hides(f)) is not None]
    hidden = [s.finding for s in suppressed]
    findings = _chained(_with_commands([f for f in everything if not any(f is h for h in hidden)], facts), facts)
    unknown = _unknown(facts, gate)
    return Report(
        origin=facts.question.path,
        summary=summary(facts),
        target=_target(facts),
        intent=facts.intent.call.value,
        arguments=_arguments(facts),
        environment=_environment(facts),
        verdict=_verdict(everything, unknown),
        safety=safety(facts.checkpoint),
        findings=tuple(findings),
        notes=tuple(notes(facts)) if all(f.severity is not Severity.ERROR for f in everything) else (),
        unknown=tuple(unknown),
        suppressed=tuple(suppressed),
        skipped=tuple(skipped),
        crashed=tuple(crashed),
        stopped=_stopped(facts),
    )


def _with_commands(findings: list[Finding], facts: Facts) -> list[Finding]:
    """Put the command beside every fix that relight can carry out on this file; take the edits of the others away."""
    return [
        replace(finding, fixes=tuple(_with_command(fix, facts) for fix in finding.fixes)) if finding.fixes else finding
        for finding in findings
    ]


def _with_command(fix: Fix, facts: Facts) -> Fix:
    if not fix.edits:
        return fix
    if not repairable(facts.checkpoint, fix.edits):
        return replace(fix, edits=(), allow=None)
    question = facts.question
    options = ["-o", question.fixed_path(), *(() if fix.allow is None else ("--allow", fix.allow))]
    return replace(fix, command=question.command("fix", None, *options))


def _chained(findings: list[Finding], facts: Facts) -> list[Finding]:
    """Let every program that mends the file go on from the copy that the one before wrote: together they mend it all."""
    path, copy = literal(facts.question.path), literal(facts.question.fixed_path())
    written = False
    out: list[Finding] = []
    for finding in findings:
        fixes = list(finding.fixes)
        at = next(
            (i for i, f in enumerate(fixes) if f.code is not None and f"torch.save(ckpt, {copy})" in f.code), None
        )
        if at is not None and fixes[at].code is not None:
            if written:
                code = str(fixes[at].code).replace(f"torch.load({path},", f"torch.load({copy},")
                note = " ".join(
                    ["It goes on from the copy that the program above wrote.", fixes[at].note or ""]
                ).strip()
                fixes[at] = replace(fixes[at], code=code, note=note)
                finding = replace(finding, fixes=tuple(fixes))
            written = True
        out.append(finding)
    return out


def _phase_of(finding: Finding, rules: Iterable[type[Rule]]) -> int:
    return next(r.phase for r in rules if r.code == finding.code)


def _need(facts: Facts, needs: Iterable[str]) -> None:
    """Touch the facts that a rule declares, so that an absent one is named before the rule runs."""
    for name in sorted(needs):
        if name == "contents":
            _ = facts.lightning
        elif name == "target":
            _ = facts.resolved_target
        elif name == "spec":
            _ = facts.spec
        elif name == "environment":
            _ = facts.environment
        elif name == "manifest":
            _ = facts.manifest


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = f" ({last.filename.rpartition('/')[2]}:{last.lineno})" if last else ""
    return f"{type(error).__name__}: {error}{place}"


def _root_cause_first(finding: Finding) -> tuple[int, int, int, int, int, str]:
    """Errors first; among them what raises first; among those what explains most."""
    stage = finding.predicts.stage if finding.predicts is not None else Stage.RESTORE
    position = finding.predicts.position if finding.predicts is not None else None
    confidence = (Confidence.CERTAIN, Confidence.LIKELY, Confidence.POSSIBLE).index(finding.confidence)
    return (
        finding.severity.rank,
        stage,
        -1 if position is None else position,
        0 if finding.name == "argument-dropped" else 1,
        -len(finding.explains),
        f"{confidence}{finding.code}",
    )


def _unknown(facts: Facts, gate: Finding | None) -> list[str]:
    """Why loading cannot be promised, one sentence each."""
    if gate is not None:
        return []
    out: list[str] = []
    checkpoint = facts.checkpoint
    if not facts.has_target:
        out.append("not compared with a model")
    else:
        target = facts.resolved_target
        failure = target.failure
        if failure is not None and failure.kind is FailureKind.NO_TORCH:
            return ["this Python has no torch to build the model with; --python PATH names one that has"]
        if failure is not None and failure.kind is FailureKind.UNKNOWN:
            out.append(failure.message)
        elif failure is not None and failure.kind is FailureKind.INIT_ERROR and not facts.constructs:
            # The model that the call gets is the user's own, made with arguments that nobody told.
            name = target.class_name or facts.question.target or "the target"
            out.append(
                f"{name} could not be built here ({failure.exception}: {' '.join(failure.message.split())}); "
                "--init NAME=VALUE passes arguments"
            )
        rehearsal = target.rehearsal
        if rehearsal is not None and rehearsal.ok is None:
            out.append(f"{rehearsal.stage} of the class needs real values ({rehearsal.exception}); that was not tried")
        if target.class_kind == "datamodule":
            out.append("what a LightningDataModule loads besides its arguments is not compared")
        elif target.spec is not None and checkpoint.readable:
            if checkpoint.state_dict_path is not None:
                out.extend(facts.keys.uncertain)
                if not facts.constructs:
                    out.extend(_other_defaults(facts))
                if facts.other_arguments:
                    names = ", ".join(facts.other_arguments)
                    out.append(
                        f"the saved spec was built without the file's {names}, which load_from_checkpoint passes; "
                        "relight spec TARGET --checkpoint FILE builds it with them"
                    )
            else:
                out.append("nothing in the file looks like a state_dict")
    out.extend(_unproved(facts))
    if facts.environment_known:
        if facts.weights_only is None and checkpoint.readable and facts.blocked is not None:
            out.append("whether weights_only=True is in effect is not known (versions of torch and Lightning)")
        if checkpoint.readable:
            out.extend(facts.unpickling_unknown)
        if checkpoint.readable and facts.placement.unknown is not None:
            out.append(facts.placement.unknown)
        if checkpoint.readable and facts.has_target and facts.memory.short:
            out.append("whether there will be memory enough")
    elif facts.has_target:
        out.append("the environment is not known")
    if facts.intent.call is IntentCall.RESUME and facts.environment_known:
        version = facts.environment.lightning
        if at_least(version, "1.6") is False:
            out.append(f"where Lightning {version} resumes is not known: before 1.6 it kept no loops")
    if facts.intent.call is IntentCall.RESUME and checkpoint.readable and facts.has_target:
        training = None if facts.resolved_target.spec is None else facts.spec.training
        if training is None:
            out.append("the optimizers are not compared: this answer is about weights, epoch and step")
        elif training.unknown:
            out.append(f"the optimizers are not compared: {training.unknown}")
    return list(dict.fromkeys(s for s in out if s))


def _other_defaults(facts: Facts) -> list[str]:
    """The user's own model may have other arguments than the one that was built: shapes show that it has."""
    shown = facts.attribution.of("argument")
    if not shown or facts.arguments is None:
        return []
    values = dict(facts.arguments.dropped)
    renamed = {old: facts.arguments.renamed[old] for e in shown for old in e.about["dropped"]}
    built = ", ".join(f"{p.name}={p.default}" for p in renamed.values())
    command = shlex.join(part for old, p in renamed.items() for part in passed(p.name, values[old]))
    return [f"the model was built with {built}, which has other shapes than the file; {command} compares with those"]


def _unproved(facts: Facts) -> list[str]:
    """Other source may compute the same; without an answer to compare nobody knows."""
    if facts.manifest_or_none is None or not facts.has_target or facts.resolved_target.spec is None:
        return []
    outcome = facts.replayed
    try:
        changed = [f.name for f in facts.changes.functions]
    except MissingFact:
        return []
    if not changed or (outcome is not None and outcome.same is not None):
        return []
    return [f"whether {some(changed, 3)} still computes what it did when this was {facts.manifest.verb}"]


def _verdict(findings: list[Finding], unknown: list[str]) -> Verdict:
    errors = [f for f in findings if f.severity is Severity.ERROR]
    if any(
        f.confidence is not Confidence.POSSIBLE and (f.predicts is not None or f.code.startswith("RL1")) for f in errors
    ):
        return Verdict.FAILS
    if any(f.wrong for f in findings):
        return Verdict.LOADS_WRONG
    if errors or unknown:
        return Verdict.UNKNOWN
    return Verdict.LOADS


def _target(facts: Facts) -> dict[str, Any] | None:
    if not facts.has_target:
        return None
    target: Target = facts.resolved_target
    return {
        "argument": target.argument,
        "class": target.class_name,
        "kind": target.class_kind,
        "file": target.file,
        "built": target.spec is not None,
        "approximated": list(target.approximated),
    }


def _arguments(facts: Facts) -> dict[str, Any]:
    intent = facts.intent
    out: dict[str, Any] = {}
    for name in ("strict", "weights_only", "map_location"):
        value = getattr(intent, name)
        if value is not None:
            out[name] = value
    if intent.init:
        out["init"] = list(intent.init)
    return out


def _environment(facts: Facts) -> dict[str, Any]:
    if not facts.environment_known:
        return {"known": False}
    environment = facts.environment
    return {
        "known": True,
        "origin": environment.origin,
        "python": environment.python,
        "torch": environment.torch,
        "lightning": environment.lightning,
        "cuda_devices": environment.cuda_devices,
    }


def _stopped(facts: Facts) -> str | None:
    if not facts.has_target:
        return None
    target = facts.resolved_target
    if target.stopped_at is None:
        return None
    file, _, line = target.stopped_at.rpartition(":")
    does = {
        "load_from_checkpoint": "loaded the checkpoint",
        "torch.load": "loaded a file",
    }.get(target.stopped_by or "", f"called {target.stopped_by}")
    return f"{file} ran only up to line {line}, where it would have {does}."

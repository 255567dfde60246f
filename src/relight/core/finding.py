"""What relight says: findings, and the report that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

from relight.core.edits import Edit, edit_to_dict
from relight.core.safety import Safety


class Severity(str, Enum):
    """How bad it is."""

    ERROR = "error"  # loading raises
    WARNING = "warning"  # it loads, but something is lost or wrong
    NOTE = "note"  # worth knowing, nothing to do

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return ("error", "warning", "note").index(self.value)


class Confidence(str, Enum):
    """How sure relight is."""

    CERTAIN = "certain"  # follows from bytes, class and versions
    LIKELY = "likely"
    POSSIBLE = "possible"


class Applicability(str, Enum):
    """What a fix promises."""

    SAFE = "safe"  # no tensor value changes or is lost
    UNSAFE = "unsafe"  # drops or invents data: only on request
    MANUAL = "manual"  # for a person to do


class FixKind(str, Enum):
    """What has to change."""

    FILE = "file"
    LOAD_ARGUMENT = "load-argument"
    ENVIRONMENT = "environment"
    CODE = "code"
    DOWNLOAD_AGAIN = "download-again"
    NONE = "none"
    IMPOSSIBLE = "impossible"


class Stage(IntEnum):
    """The steps of loading, in the order in which they can raise."""

    IMPORT = 0  # the user's own script, before the checkpoint is opened
    OPEN = 1
    UNPICKLE = 2
    MIGRATE = 3
    CONSTRUCT = 4
    HOOK = 5
    LOAD_STATE_DICT = 6
    RESTORE = 7  # optimizers, loops, callbacks of a resume


class Verdict(str, Enum):
    """The answer in one word."""

    LOADS = "loads"
    LOADS_WRONG = "loads-wrong"  # no error, but not what was saved
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the real library will do.

    Attributes:
        stage: When it raises.
        call: Which call: ``load_from_checkpoint``, ``torch.load``, ``load_state_dict``.
        exception: Class, module-qualified unless builtin: ``_pickle.UnpicklingError``.
        message: Text that the message contains (the whole of it where it is known).
        position: Byte offset in the pickle of the opcode that raises, None where that is not known. Of several that
            raise while unpickling, the user sees the first.
    """

    stage: Stage
    call: str
    exception: str
    message: str
    position: int | None = None

    def to_dict(self) -> dict[str, str]:
        """JSON form."""
        return {"call": self.call, "exception": self.exception, "message": self.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One way out.

    Attributes:
        title: What it does, as a sentence a person can decide on.
        kind: What has to change.
        applicability: What it promises.
        command: A shell command that works when pasted, or None.
        code: Python that works when pasted, or None.
        note: What it costs or does not cover; one or two sentences, or None.
        edits: What `relight fix` does to the file for it; empty where it can do nothing.
        allow: What ``--allow`` calls it where it is not done unasked: ``drop-layers``; None where it is safe.
    """

    title: str
    kind: FixKind
    applicability: Applicability = Applicability.MANUAL
    command: str | None = None
    code: str | None = None
    note: str | None = None
    edits: tuple[Edit, ...] = ()
    allow: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "title": self.title,
            "kind": self.kind.value,
            "applicability": self.applicability.value,
            "command": self.command,
            "code": self.code,
            "note": self.note,
            "edits": [edit_to_dict(e) for e in self.edits],
            "allow": self.allow,
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line of evidence: what, its description, and where.

    Attributes:
        what: ``layer3``, ``hyper_parameters.args``, ``load.py:7``.
        text: ``nn.Linear(1, 5), 2 tensors``.
        where: ``load.py:9``, or None.
    """

    what: str
    text: str = ""
    where: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"what": self.what, "text": self.text, "where": self.where}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a rule found.

    Rules make findings through `relight.rulekit.Rule.finding`, which fills in code, name and severity.

    Attributes:
        code: ``RL303``.
        name: ``layer-added``.
        cause: Id in the catalogue of known failures.
        severity: How bad.
        confidence: How sure.
        message: What is wrong, one line, plain words, no hint in it.
        evidence: What shows it.
        context: Sentences that say why, each a paragraph of the text report; bounded claims only.
        fixes: Ways out, most conservative first.
        subjects: Keys, records or names that it is about.
        explains: Subjects that this finding accounts for, so that no other has to.
        predicts: What the library will do because of it; None where nothing raises.
        wrong: True when loading succeeds and the result is silently not what was saved.
    """

    code: str
    name: str
    cause: str
    severity: Severity
    confidence: Confidence
    message: str
    evidence: tuple[Evidence, ...] = ()
    context: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    subjects: tuple[str, ...] = ()
    explains: frozenset[str] = frozenset()
    predicts: Prediction | None = None
    wrong: bool = False

    @property
    def counts(self) -> bool:
        """Whether it alone says that loading fails or goes wrong; what is only possible does not."""
        return self.wrong or (self.severity is Severity.ERROR and self.confidence is not Confidence.POSSIBLE)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "code": self.code,
            "name": self.name,
            "cause": self.cause,
            "severity": self.severity.value,
            "confidence": self.confidence.value,
            "message": self.message,
            "hint": self.fixes[0].title if self.fixes else None,
            "evidence": [e.to_dict() for e in self.evidence],
            "context": list(self.context),
            "subjects": list(self.subjects),
            "explains": len(self.explains),
            "prediction": None if self.predicts is None else self.predicts.to_dict(),
            "fixes": [f.to_dict() for f in self.fixes],
        }


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rule that was not asked, and why."""

    code: str
    reason: str


class Suppression(str, Enum):
    """Why a finding is neither shown nor counted."""

    IGNORED = "ignored"
    NOT_SELECTED = "not-selected"
    BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that the user does not want to see. It is part of the answer all the same.

    Attributes:
        finding: What was found.
        how: Which of the user's settings hides it.
        reason: The reason given there.
    """

    finding: Finding
    how: Suppression
    reason: str

    @property
    def code(self) -> str:
        """The finding's code."""
        return self.finding.code

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        finding = self.finding
        return {
            "code": finding.code,
            "name": finding.name,
            "cause": finding.cause,
            "severity": finding.severity.value,
            "confidence": finding.confidence.value,
            "message": finding.message,
            "how": self.how.value,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Reference:
    """Where one can see for oneself.

    Attributes:
        text: File and function of the library, or a part of its documentation.
        url: Where it is to be read, None where no address is known.
    """

    text: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the page of a finding's rule says, for ``--explain``.

    Attributes:
        name: Name of the rule.
        code: Its code.
        why: Why loading fails, or goes wrong.
        references: What settles it.
    """

    name: str
    code: str
    why: str
    references: tuple[Reference, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "code": self.code,
            "name": self.name,
            "why": self.why,
            "references": [{"text": r.text, "url": r.url} for r in self.references],
        }


@dataclass(frozen=True, slots=True)
class Crashed:
    """A rule that raised: a defect of relight that must not hide the other answers."""

    code: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer to one question.

    Attributes:
        origin: The checkpoint, as given.
        summary: Facts on the file for the one-line answers: layout, versions, epoch, counts.
        target: What it was compared with: ``{"argument", "class", "file", ...}``; None if nothing.
        intent: ``load``, ``resume`` or ``weights``.
        arguments: Arguments of the call as the user would pass them.
        environment: Where; JSON form.
        verdict: The answer.
        safety: What can be said about the file's intentions.
        findings: Root cause first.
        notes: Lines worth knowing under a good verdict; at most a few.
        unknown: Why the verdict is unknown, one sentence each.
        suppressed: Findings that the user does not want to see.
        skipped: Rules that were not asked.
        crashed: Rules that raised.
        stopped: Where the target's script was stopped, as one sentence; None if it was not.
        candidates: LightningModules that were found by parsing, as ``--target`` takes them, where none was given.
        explanations: Of the rules of the findings, where they were asked for.
    """

    origin: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] | None = None
    intent: str = "load"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict = Verdict.UNKNOWN
    safety: Safety = Safety.UNKNOWN
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    crashed: tuple[Crashed, ...] = ()
    stopped: str | None = None
    candidates: tuple[str, ...] = ()
    explanations: tuple[Explanation, ...] = ()

    @property
    def prediction(self) -> Prediction | None:
        """What raises first, also of what is not shown; findings of later stages show only once this is mended."""
        predictions = [
            f.predicts
            for f in self.all_findings
            if f.predicts is not None and f.severity is Severity.ERROR and f.confidence is not Confidence.POSSIBLE
        ]
        earliest = min((p.stage for p in predictions), default=None)
        first = [p for p in predictions if p.stage is earliest]
        if not first or any(p.position is None for p in first):
            return first[0] if first else None
        return min(first, key=lambda p: p.position or 0)

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """What was found, shown or not: what is hidden changes nothing about the answer."""
        return (*self.findings, *(s.finding for s in self.suppressed))

    @property
    def failed(self) -> bool:
        """Whether the exit status is 1: an error, or a load that is silently wrong, that is not suppressed."""
        return any(f.counts for f in self.findings)

    @property
    def accepted(self) -> tuple[Suppressed, ...]:
        """What says that loading fails or goes wrong, where all that says so is suppressed."""
        return () if self.failed else tuple(s for s in self.suppressed if s.finding.counts)

    @property
    def unanswered(self) -> bool:
        """Whether the exit status is 2: a target was given, and nothing could be compared with it."""
        told = any(f.counts for f in self.all_findings)
        return not told and self.target is not None and not self.target.get("built")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/check/1``."""
        from relight.core.version import __version__

        return {
            "schema": "relight/check/1",
            "relight_version": __version__,
            "checkpoint": {"path": self.origin, **self.summary},
            "target": None if self.target is None else dict(self.target),
            "intent": self.intent,
            "arguments": dict(self.arguments),
            "environment": dict(self.environment),
            "verdict": self.verdict.value,
            "safety": self.safety.value,
            "prediction": None if self.prediction is None else self.prediction.to_dict(),
            "findings": [f.to_dict() for f in self.findings],
            "notes": list(self.notes),
            "unknown": list(self.unknown),
            "suppressed": [s.to_dict() for s in self.suppressed],
            "skipped": [{"code": s.code, "reason": s.reason} for s in self.skipped],
            "crashed": [{"code": c.code, "error": c.error} for c in self.crashed],
            "stopped": self.stopped,
            "candidates": list(self.candidates),
            "explanations": [e.to_dict() for e in self.explanations],
        }

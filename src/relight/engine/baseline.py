"""Findings that are known and accepted: a file to be reviewed and checked in. What comes later is shown again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relight.core.errors import UsageError
from relight.core.finding import Finding, Severity

SCHEMA = "relight/baseline/1"
# A renamed model differs in ten thousand keys, which nobody reviews; the fingerprint is made of all of them.
_SUBJECTS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One accepted finding.

    Attributes:
        fingerprint: What it is recognised by.
        file: The checkpoint, relative to the baseline's folder.
        target: ``--target`` of the check that found it, None without one.
        intent: ``--for`` of that check.
        code: Code of the rule.
        name: Name of the rule.
        cause: Id of the cause.
        severity: How bad it was: one that got worse is not accepted.
        message: What was wrong.
        subjects: The first of the keys, records or names that it is about.
        subject_count: How many there are.
    """

    fingerprint: str
    file: str
    target: str | None
    intent: str
    code: str
    name: str
    cause: str
    severity: Severity
    message: str
    subjects: tuple[str, ...]
    subject_count: int

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "file": self.file,
            "target": self.target,
            "for": self.intent,
            "code": self.code,
            "name": self.name,
            "cause": self.cause,
            "severity": self.severity.value,
            "message": self.message,
            "subjects": list(self.subjects),
            "subject_count": self.subject_count,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Known:
        """Read the form of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        return cls(
            fingerprint=str(data["fingerprint"]),
            file=str(data["file"]),
            target=None if data["target"] is None else str(data["target"]),
            intent=str(data["for"]),
            code=str(data["code"]),
            name=str(data["name"]),
            cause=str(data["cause"]),
            severity=Severity(data["severity"]),
            message=str(data["message"]),
            subjects=tuple(str(s) for s in data["subjects"]),
            subject_count=int(data["subject_count"]),
        )


@dataclass(frozen=True, slots=True)
class Baseline:
    """A file of accepted findings.

    Attributes:
        path: Where it lies.
        known: What it accepts.
    """

    path: str
    known: tuple[Known, ...] = field(default=())

    def accepts(self, finding: Finding, file: str) -> bool:
        """Whether a finding was there before, and was no less bad then."""
        mark = fingerprint(finding, file)
        return any(k.fingerprint == mark and k.severity.rank <= finding.severity.rank for k in self.known)

    def name_of(self, checkpoint: str) -> str:
        """A checkpoint as this baseline names it: relative to its folder, wherever the check is run."""
        if "://" in checkpoint:
            return checkpoint
        try:
            relative = os.path.relpath(checkpoint, os.path.dirname(os.path.abspath(self.path)))
        except ValueError:  # on another drive
            relative = os.path.abspath(checkpoint)
        return relative.replace(os.sep, "/")

    def updated(self, findings: Iterable[Finding], *, file: str, target: str | None, intent: str) -> Baseline:
        """The baseline after a check: what it found stands for this question, other questions stay as they are."""
        others = [k for k in self.known if (k.file, k.target, k.intent) != (file, target, intent)]
        mine = {
            k.fingerprint: k
            for k in (
                Known(
                    fingerprint=fingerprint(f, file),
                    file=file,
                    target=target,
                    intent=intent,
                    code=f.code,
                    name=f.name,
                    cause=f.cause,
                    severity=f.severity,
                    message=f.message,
                    subjects=f.subjects[:_SUBJECTS_SHOWN],
                    subject_count=len(f.subjects),
                )
                for f in findings
            )
        }
        ordered = sorted(
            [*others, *mine.values()], key=lambda k: (k.file, k.target or "", k.intent, k.code, k.fingerprint)
        )
        return Baseline(self.path, tuple(ordered))

    def text(self) -> str:
        """The file's text: sorted and indented, so that a difference of two versions can be read."""
        data = {"schema": SCHEMA, "findings": [k.to_dict() for k in self.known]}
        return json.dumps(data, indent=2) + "\n"


def fingerprint(finding: Finding, file: str) -> str:
    """What stays the same as long as the finding does: rule, cause, what it is about, and the file."""
    identity = json.dumps([finding.code, finding.cause, sorted(finding.subjects), file])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def read(path: str, *, new: bool = False) -> Baseline:
    """Read a baseline.

    Args:
        path: The file.
        new: Whether it may be absent, because it is about to be written.

    Raises:
        UsageError: It is not there, or it is no baseline.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        if new:
            return Baseline(path)
        raise UsageError(
            f"--baseline {path}: there is no such file", f"Write it with: --baseline {path} --write-baseline"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--baseline {path}: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise UsageError(f"--baseline {path}: it is no baseline of relight ({SCHEMA})")
    try:
        return Baseline(path, tuple(Known.from_dict(k) for k in data["findings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--baseline {path}: an entry is not as relight writes it ({error!r})") from None

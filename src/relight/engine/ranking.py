"""Which of several models a checkpoint was made from: how much of each fits, counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from relight.core.errors import MissingFact
from relight.core.finding import Report, Severity, Verdict
from relight.facts.facts import Facts

# A tensor that fits under another name says a little less for a class than one that fits as it is.
_UNDER_ANOTHER_NAME = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Tensors of a file against those of a model, counted.

    Attributes:
        fits: With the same name and shape on both sides.
        renamed: Of the file, that belong to one of the model under another name.
        mismatched: With the same name and another shape.
        file: Of the file.
        model: Of the model.
    """

    fits: int
    renamed: int
    mismatched: int
    file: int
    model: int

    @property
    def share(self) -> float:
        """How much of both sides fits, 0 to 1."""
        both = self.file + self.model
        return 2 * (self.fits + _UNDER_ANOTHER_NAME * self.renamed) / both if both else 0.0

    def to_dict(self) -> dict[str, int]:
        """JSON form."""
        return {
            "fits": self.fits,
            "renamed": self.renamed,
            "mismatched": self.mismatched,
            "file": self.file,
            "model": self.model,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the models that were tried.

    Attributes:
        report: The answer for it.
        fit: How much fits; None where it could not be built, or takes no weights.
    """

    report: Report
    fit: Fit | None

    @property
    def target(self) -> dict[str, Any]:
        """What the report says of the target."""
        return dict(self.report.target or {})

    @property
    def name(self) -> str:
        """Name of its class."""
        return str(self.target.get("class") or str(self.target.get("argument")).rpartition(":")[2])

    @property
    def merit(self) -> tuple[float, int, int, bool]:
        """What it is ranked by, the best smallest: the share that fits, the verdict, errors, whether Lightning loads it."""
        errors = sum(f.severity is Severity.ERROR for f in self.report.all_findings)
        other = self.report.summary.get("kind") == "lightning" and self.target.get("kind") != "lightning"
        order = (Verdict.LOADS, Verdict.UNKNOWN, Verdict.LOADS_WRONG, Verdict.FAILS)
        return (1.0 if self.fit is None else -self.fit.share, order.index(self.report.verdict), errors, other)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        shown = [f for f in self.report.all_findings if f.severity is not Severity.NOTE]
        return {
            "target": self.target.get("argument"),
            "class": self.target.get("class"),
            "kind": self.target.get("kind"),
            "file": self.target.get("file"),
            "built": bool(self.target.get("built")),
            "verdict": self.report.verdict.value,
            "tensors": None if self.fit is None else self.fit.to_dict(),
            "findings": [{"code": f.code, "name": f.name, "message": f.message} for f in shown],
            "unknown": list(self.report.unknown),
        }


def fit_of(facts: Facts) -> Fit | None:
    """How much of a file fits into a model; None where that cannot be asked."""
    try:
        keys = facts.keys
        attribution = facts.attribution
    except MissingFact:
        return None
    pairs = {
        saved
        for e in (() if attribution.unrelated else attribution.explanations)
        for saved, wanted in e.pairs
        if saved != wanted
    }
    renamed = len(pairs - set(keys.matched))
    return Fit(
        fits=len(keys.matched),
        renamed=renamed,
        mismatched=len(keys.mismatched),
        file=len(keys.matched) + len(keys.mismatched) + len(keys.unexpected),
        model=len(keys.matched) + len(keys.mismatched) + len(keys.missing),
    )


def ranked(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The best first; among equals, in the order of their definition."""
    return tuple(sorted(candidates, key=lambda c: c.merit))

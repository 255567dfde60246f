"""What `relight.check` and `relight.rank_targets` give: the answer, and how it says itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from relight.core import finding
from relight.engine.ranking import Candidate
from relight.report.layout import Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(finding.Report):
    """The answer to one question. ``print(report)`` prints what the command line would.

    It has the attributes of `relight.core.finding.Report`, which knows nothing of words.
    """

    @classmethod
    def of(cls, report: finding.Report) -> Report:
        """The same answer."""
        return cls(**{f.name: getattr(report, f.name) for f in fields(report)})

    def text(self, *, width: int | None = None, colour: bool = False, verbose: bool = False) -> str:
        """The report as a terminal shows it.

        Args:
            width: Columns to lay out for, 40 to 100; None for those of the terminal, 80 where there is none.
            colour: Whether to write ANSI colours.
            verbose: Also say what was not asked, and why.
        """
        from relight.report import text

        return text.render(self, _style(width, colour=colour), verbose=verbose)

    def markdown(self) -> str:
        """The report to be pasted into a thread."""
        from relight.report import markdown

        return markdown.render(self)

    def __str__(self) -> str:
        """As `text`, without the final newline."""
        return self.text().removesuffix("\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Which of several models a checkpoint was made from. ``print(ranking)`` prints what the command line would.

    Attributes:
        origin: The checkpoint, as given.
        asked: The targets, as given.
        candidates: The models, the best first.
    """

    origin: str
    asked: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    @property
    def report(self) -> Report:
        """The answer for the model that stands first: exit status and findings are its own."""
        return Report.of(self.candidates[0].report)

    @property
    def best(self) -> Candidate | None:
        """The model of which the most fits; None where nothing fits any."""
        first = self.candidates[0]
        return first if first.fit is not None and first.fit.share > 0 else None

    @property
    def as_good(self) -> tuple[Candidate, ...]:
        """Others that fit as well as the best: names and shapes cannot tell them apart."""
        best = self.best
        return () if best is None else tuple(c for c in self.candidates[1:] if c.merit == best.merit)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/targets/1``."""
        report = self.report.to_dict()
        best = self.best
        return {
            "schema": "relight/targets/1",
            "relight_version": report["relight_version"],
            "checkpoint": report["checkpoint"],
            "asked": list(self.asked),
            "best": None if best is None else best.target["argument"],
            "as_good": [c.target["argument"] for c in self.as_good],
            "candidates": [c.to_dict() for c in self.candidates],
            "report": report,
        }

    def text(self, *, width: int | None = None, colour: bool = False, verbose: bool = False) -> str:
        """The ranking and the report for the best, as a terminal shows them; the arguments are those of `Report.text`."""
        from relight.report import ranking_text

        return ranking_text.render(self, _style(width, colour=colour), verbose=verbose)

    def __str__(self) -> str:
        """As `text`, without the final newline."""
        return self.text().removesuffix("\n")


def _style(width: int | None, *, colour: bool) -> Style:
    import shutil

    columns = shutil.get_terminal_size((80, 24)).columns if width is None else width
    return Style(colour=colour, width=columns)

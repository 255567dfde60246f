"""The report that `relight.check` gives: the answer, and how it says itself."""

from __future__ import annotations

from dataclasses import dataclass, fields

from relight.core import finding


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
        import shutil

        from relight.report import text
        from relight.report.layout import Style

        columns = shutil.get_terminal_size((80, 24)).columns if width is None else width
        return text.render(self, Style(colour=colour, width=columns), verbose=verbose)

    def markdown(self) -> str:
        """The report to be pasted into a thread."""
        from relight.report import markdown

        return markdown.render(self)

    def __str__(self) -> str:
        """As `text`, without the final newline."""
        return self.text().removesuffix("\n")

"""Which findings the user wants to see. It never changes the answer, only what of it is shown and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from relight.core.finding import Finding, Suppressed, Suppression
from relight.engine.baseline import Baseline
from relight.rulekit.registry import rules_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to show.

    Attributes:
        selected: Codes of the rules whose findings are wanted; None for all.
        ignored: Code to the reason why the findings of that rule are not wanted; it wins over ``selected``.
        baseline: Findings that were there before; None without one.
        file: The checkpoint, as the baseline names it.
    """

    selected: frozenset[str] | None = None
    ignored: Mapping[str, str] = field(default_factory=dict)
    baseline: Baseline | None = None
    file: str = ""

    @classmethod
    def of(
        cls,
        *,
        select: Iterable[str] | None = None,
        ignore: Mapping[str, str] | None = None,
        baseline: Baseline | None = None,
        file: str = "",
    ) -> Choice:
        """From codes, prefixes of codes and names.

        Raises:
            UsageError: There is no such rule.
        """
        selected = None if select is None else frozenset(r.code for s in select for r in rules_named(s))
        ignored: dict[str, str] = {}
        # The more exact selector has the better reason: RL303 says more than RL3.
        for selector, reason in sorted((ignore or {}).items(), key=lambda item: len(rules_named(item[0]))):
            for rule in rules_named(selector):
                ignored.setdefault(rule.code, reason)
        return cls(selected=selected, ignored=ignored, baseline=baseline, file=file)

    def hides(self, finding: Finding) -> Suppressed | None:
        """Why a finding is not wanted; None where it is."""
        if finding.code in self.ignored:
            return Suppressed(finding, Suppression.IGNORED, self.ignored[finding.code])
        if self.selected is not None and finding.code not in self.selected:
            return Suppressed(finding, Suppression.NOT_SELECTED, "its rule is not selected")
        if self.baseline is not None and self.baseline.accepts(finding, self.file):
            return Suppressed(finding, Suppression.BASELINE, f"listed in {self.baseline.path}")
        return None

"""The base class of rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import ClassVar

from relight.core.errors import RuleDefinitionError
from relight.core.finding import Confidence, Evidence, Finding, Fix, Prediction, Severity
from relight.facts.facts import Facts
from relight.rulekit.example import Fires, Silent

HEADINGS = ("What it checks", "Why loading fails", "How to fix", "References")
FACTS = frozenset({"contents", "target", "spec", "environment", "manifest"})


class Phase(IntEnum):
    """When a rule is asked. An ERROR of a rule that ``gates`` ends the run after its phase."""

    CONTAINER = 0
    CONTENTS = 1
    COMPARISON = 2
    RESIDUAL = 3


class Rule:
    """One thing that can be wrong.

    Subclass it in a file of its own under ``relight/rules``; nothing else has to be edited. The docstring is the
    rule's page and must have the headings of `HEADINGS`; its first line is the title.

    Attributes:
        code: ``RL`` and three digits. Never reused.
        name: Kebab-case; says the problem, never the cure.
        causes: Ids of the catalogue of known failures that it detects; the first is the default of `finding`.
        since: Version of relight that brought it.
        severity: Default of its findings.
        phase: When it is asked.
        needs: Facts that it cannot do without: ``contents``, ``target``, ``spec``, ``environment``,
            ``manifest``.
        gates: Whether its ERROR leaves nothing to say for later phases.
        fixable: Whether its findings carry a fix that relight itself can apply to the file.
        examples: Cases on which it fires and near misses on which it is silent.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    causes: ClassVar[tuple[str, ...]]
    since: ClassVar[str] = "0.1.0"
    severity: ClassVar[Severity] = Severity.ERROR
    phase: ClassVar[Phase] = Phase.CONTENTS
    needs: ClassVar[frozenset[str]] = frozenset()
    gates: ClassVar[bool] = False
    fixable: ClassVar[bool] = False
    examples: ClassVar[Sequence[Fires | Silent]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _validate(cls)

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Yield what is found; nothing when all is well.

        Args:
            facts: All that is known.

        Raises:
            MissingFact: A fact outside of ``needs`` turned out to be absent; the rule then counts as skipped.
        """
        raise NotImplementedError

    def finding(
        self,
        message: str,
        *,
        cause: str | None = None,
        severity: Severity | None = None,
        confidence: Confidence = Confidence.CERTAIN,
        evidence: Sequence[Evidence] = (),
        context: Sequence[str] = (),
        fixes: Sequence[Fix] = (),
        subjects: Sequence[str] = (),
        explains: Sequence[str] | frozenset[str] = (),
        predicts: Prediction | None = None,
        wrong: bool = False,
    ) -> Finding:
        """Make a finding of this rule; see `relight.core.finding.Finding` for the fields."""
        return Finding(
            code=self.code,
            name=self.name,
            cause=self.causes[0] if cause is None else cause,
            severity=self.severity if severity is None else severity,
            confidence=confidence,
            message=message,
            evidence=tuple(evidence),
            context=tuple(context),
            fixes=tuple(fixes),
            subjects=tuple(subjects),
            explains=frozenset(explains),
            predicts=predicts,
            wrong=wrong,
        )

    @classmethod
    def title(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @classmethod
    def page(cls) -> str:
        """The docstring as Markdown, dedented."""
        import inspect

        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def section(cls, heading: str) -> str:
        """The text under one heading of the page."""
        match = re.search(rf"^{heading}\n-+\n(.*?)(?=\n\n[^\n]+\n-+\n|\Z)", cls.page(), re.MULTILINE | re.DOTALL)
        return "" if match is None else match.group(1).strip()


def _validate(cls: type[Rule]) -> None:
    def fail(reason: str) -> RuleDefinitionError:
        return RuleDefinitionError(cls.__name__, reason)

    for attribute in ("code", "name", "causes"):
        if not getattr(cls, attribute, None):
            raise fail(f"{attribute} is missing")
    if not re.fullmatch(r"RL\d{3}", cls.code):
        raise fail(f"code {cls.code!r} is not RL and three digits")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cls.name):
        raise fail(f"name {cls.name!r} is not kebab-case")
    if re.match(r"(fix|use|avoid|no-more|remove|add|rename|cast|drop)-", cls.name):
        raise fail(f"name {cls.name!r} says the cure, not the problem")
    if unknown := cls.needs - FACTS:
        raise fail(f"needs unknown facts: {', '.join(sorted(unknown))}")
    doc = cls.__doc__ or ""
    for heading in HEADINGS:
        if not re.search(rf"^\s*{heading}\n\s*-+$", doc, re.MULTILINE):
            raise fail(f"the docstring has no section {heading!r}")
    names = [e.name for e in cls.examples]
    if len(set(names)) != len(names):
        raise fail("two examples have the same name")
    if not any(isinstance(e, Fires) for e in cls.examples) or not any(isinstance(e, Silent) for e in cls.examples):
        raise fail("examples need at least one Fires and one Silent")

"""RL190."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import ProblemKind
from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Phase, Rule, Silent


class Unreadable(Rule):
    """The file could not be read to the end.

    What it checks
    --------------
    What no other rule on files explains: a limit of the reader that was reached, or a format that is known by name
    only.

    Why loading fails
    -----------------
    It may load: relight stops at limits that protect it from files made to exhaust a reader, and says so.

    How to fix
    ----------
    If the file is your own and really that large, raise the limit that the evidence names.

    References
    ----------
    The table of limits in the documentation.
    """

    code = "RL190"
    name = "unreadable"
    causes = ("not-a-torch-pickle",)
    phase = Phase.CONTAINER
    gates = True
    examples = (
        Fires(name="nested deeper than any real file", file=File(content=b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".")),
        Silent(name="a file of usual size"),
        Silent(name="a file that is cut off", file=File(keep=0.5)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for what was reached."""
        problems = list(facts.checkpoint.problems_of(ProblemKind.LIMIT))
        if problems:
            yield self.finding(
                "the file reaches a limit of the reader",
                confidence=Confidence.POSSIBLE,
                evidence=[Evidence(p.what or "limit", p.message) for p in problems[:3]],
                fixes=[
                    Fix(title="If it is your own file, tell us: real files should not get there.", kind=FixKind.NONE)
                ],
            )

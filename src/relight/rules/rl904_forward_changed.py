"""RL904."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Severity
from relight.facts import changed
from relight.facts.describe import some
from relight.facts.facts import Facts
from relight.facts.makes import FunctionChange
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, function, make, manifest


class ForwardChanged(Rule):
    """The source of forward, or of a function that it calls, is not what it was when the model was saved.

    What it checks
    --------------
    The source of every function of the user's that a forward reaches, and the constants that it uses. Formatting,
    comments, docstrings, annotations, assertions, printing, the names of locals, of helpers, of constants and of imports
    do not count. Where the manifest has a probe, the model is asked what it answered then: the same answer makes this a
    line, not a finding.

    Why loading fails
    -----------------
    It does not: code is not in the state_dict.

    How to fix
    ----------
    Go back to the code of then, which the repository has, or see that it computes the same.

    References
    ----------
    torch/nn/modules/module.py: ``state_dict`` holds parameters and persistent buffers.
    """

    code = "RL904"
    name = "forward-changed"
    causes = ("activation-changed",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="another statement",
            file=File(extra=manifest(make({"net": ("models.B", {})}, net=function("a1", [("s1", 3), ("s2", 4)])))),
            model=Model(architecture=make({"net": ("models.B", {})}, net=function("b1", [("s1", 3), ("s3", 4)]))),
            oracle=False,
        ),
        Fires(
            name="the same statements with other attributes",
            file=File(extra=manifest(make({"net": ("models.B", {})}, net=function("a1", reads=["lin", "act"])))),
            model=Model(architecture=make({"net": ("models.B", {})}, net=function("a1", reads=["act", "lin"]))),
            oracle=False,
        ),
        Silent(
            name="the same code at other lines",
            file=File(extra=manifest(make({"net": ("models.B", {})}, net=function("a1", [("s1", 3)])))),
            model=Model(architecture=make({"net": ("models.B", {})}, net=function("a1", [("s1", 30)]))),
        ),
        Fires(
            name="in a class that is called something else, too",
            file=File(extra=manifest(make({"net": ("models.B", {})}, net=function("a1", [("s1", 3), ("s2", 4)])))),
            model=Model(architecture=make({"net": ("models.C", {})}, net=function("b1", [("s1", 3), ("s3", 4)]))),
            oracle=False,
        ),
        Silent(
            name="a class that is only called something else",
            file=File(extra=manifest(make({"net": ("models.B", {})}, net=function("a1", [("s1", 3)])))),
            model=Model(architecture=make({"net": ("models.C", {})}, net=function("a1", [("s1", 9)]))),
        ),
        Silent(
            name="the source was not at hand when it was saved",
            file=File(extra=manifest(make({"net": ("models.B", {})}))),
            model=Model(architecture=make({"net": ("models.B", {})}, net=function("a1"))),
        ),
        Silent(
            name="an attribute that is called something else",
            file=File(extra=manifest(make({"net": ("models.B", {"k": "2"})}, net=function("a1", reads=["k"])))),
            model=Model(architecture=make({"net": ("models.B", {"heads": "2"})}, net=function("a1", reads=["heads"]))),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Nothing where the answers are the same: it may be written differently."""
        found = facts.changes.functions
        outcome = facts.replayed
        if not found or (outcome is not None and outcome.same is True):
            return
        shown = outcome is not None and outcome.same is False
        names = some([c.name for c in found], 3)
        yield self.finding(
            f"{names} {'computes something else' if shown else 'has changed'} since this was {facts.manifest.verb}",
            confidence=changed.confidence(facts, certain=False),
            evidence=[_line(c) for c in found[:6]],
            context=changed.context(facts, "Code is not in the state_dict, so loading cannot notice."),
            fixes=[*_history(facts, found), changed.meant(facts, self.name)],
            subjects=[c.name for c in found],
            # Other source may do the same; without an answer to compare nobody knows.
            wrong=shown,
        )


def _line(change: FunctionChange) -> Evidence:
    lines = ", ".join(map(str, change.lines[:8]))
    text = f"line{'' if len(change.lines) == 1 else 's'} {lines}" if lines else "what it is made of"
    if change.modules and change.modules != ("",):
        text += f", in {some(change.modules, 2)}"
    return Evidence(change.name, text, change.line)


def _history(facts: Facts, found: tuple[FunctionChange, ...]) -> Iterator[Fix]:
    commit = facts.manifest.commit
    files = dict.fromkeys(c.line.rpartition(":")[0] for c in found if c.line)
    if commit is None or not files:
        return
    clean = facts.manifest.part("repository").get("changed") is False
    yield Fix(
        title=f"What changed since the commit that it was {facts.manifest.verb} from"
        + (":" if clean else " (files had been edited by then, too):"),
        kind=FixKind.CODE,
        command=shlex.join(["git", "diff", commit, "--", *files]),
    )

"""RL908."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.errors import MissingFact
from relight.core.finding import Evidence, Finding, Fix, FixKind, Severity
from relight.facts import changed, surroundings
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, make, manifest, probe

_NET = {"net": "torch.nn.modules.linear.Linear"}


class AnswersChanged(Rule):
    """The model answers otherwise than when it was saved, and nothing shows why.

    What it checks
    --------------
    The probe of the manifest: what the model, with the file's weights, answers to the recorded form of input, with a
    tolerance that covers other devices and versions. It is asked last: a difference that another finding explains is
    told there.

    Why loading fails
    -----------------
    It does not: a constant, a file that is read, or the code of a library may have changed.

    How to fix
    ----------
    Look at what the model reads besides its weights: constants, files, versions.

    References
    ----------
    None: this is measured, not foretold.
    """

    code = "RL908"
    name = "answers-changed"
    causes = ("activation-changed",)
    severity = Severity.WARNING
    phase = Phase.RESIDUAL
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="other outputs",
            file=File(extra=manifest(make(_NET), probe=probe([0.5, -1.0, 2.0]))),
            model=Model(architecture=make(_NET), answer=probe([0.5, 1.0, 2.0])),
            oracle=False,
        ),
        Silent(
            name="the same outputs but for rounding",
            file=File(extra=manifest(make(_NET), probe=probe([0.5, -1.0, 2.0]))),
            model=Model(architecture=make(_NET), answer=probe([0.50001, -1.0, 2.0])),
        ),
        Silent(
            name="other outputs, and an activation that explains them",
            file=File(extra=manifest(make({"act": "torch.nn.modules.activation.ReLU"}), probe=probe([0.5]))),
            model=Model(architecture=make({"act": "torch.nn.modules.activation.GELU"}), answer=probe([0.7])),
        ),
        Silent(name="not asked", file=File(extra=manifest(make(_NET), probe=probe([0.5]))), model=Model(architecture=make(_NET))),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only where no other difference is known."""
        outcome = facts.replayed
        if outcome is None or outcome.same is not False or facts.altered.keys or facts.spec.approximated:
            return
        try:
            if facts.changes.any:
                return
        except MissingFact:
            pass  # then there is nothing that could explain it
        yield self.finding(
            f"the model answers otherwise than when it was {facts.manifest.verb}",
            evidence=[Evidence("answers", outcome.text), *_surroundings(facts)],
            context=[
                f"Asked with the weights of the file and the recorded input form ({outcome.form}, seeded). Modules, "
                "attributes and the code of forward are as they were, as far as the manifest describes them.",
                *changed.sealed(facts),
            ],
            fixes=[
                Fix(
                    title="Look at what the model reads besides its weights: constants, files, versions of packages.",
                    kind=FixKind.CODE,
                )
            ],
            subjects=["answers"],
            wrong=True,
        )


def _surroundings(facts: Facts) -> Iterator[Evidence]:
    """What else is not as it was, first what touches this model."""
    try:
        environment = facts.environment
    except MissingFact:
        return
    found = surroundings.differences(facts.manifest, environment)
    for one in found[:4]:
        yield Evidence(one.name, f"{facts.manifest.verb} with {one.then}, now {one.now}; {one.why}")
    if len(found) > 4:
        yield Evidence("...", f"{len(found) - 4} more versions differ, of packages that the program had imported")

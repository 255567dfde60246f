"""RL510."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.question import LEFT_OUT
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Model, Phase, Rule, Silent


class StrictConflict(Rule):
    """The call and the class disagree about strict loading.

    What it checks
    --------------
    ``strict`` of load_from_checkpoint against ``strict_loading`` of the class, where both are set.

    Why loading fails
    -----------------
    Lightning 2.2 and newer refuse two different answers: ``ValueError: You set load_from_checkpoint(..., strict=True)
    which is in conflict with MyModel.strict_loading=False``.

    How to fix
    ----------
    Leave ``strict`` out of the call, or change the attribute of the class.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_state``; release notes of Lightning 2.2.
    """

    code = "RL510"
    name = "strict-conflict"
    causes = ("strict-conflict",)
    phase = Phase.CONTENTS
    needs = frozenset({"spec", "environment"})
    examples = (
        Fires(
            name="strict asked for, the class says no", model=Model(strict_loading=False), intent=Intent(strict=True)
        ),
        Fires(
            name="not strict asked for, the class says yes",
            model=Model(strict_loading=True),
            intent=Intent(strict=False),
        ),
        Silent(name="both say the same", model=Model(strict_loading=False), intent=Intent(strict=False)),
        Silent(name="only the class says something", model=Model(strict_loading=False)),
        Silent(name="only the call says something", intent=Intent(strict=True), model=Model()),
        Silent(
            name="plain torch.load",
            model=Model(strict_loading=False),
            intent=Intent(call=IntentCall.WEIGHTS, strict=True),
        ),
        Silent(
            name="a Lightning that does not compare them",
            file=File(version="2.0.0"),
            model=Model(strict_loading=False),
            intent=Intent(strict=True),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "2.0.9"}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Compare the two."""
        asked, says = facts.intent.strict, facts.spec.strict_loading
        if facts.intent.call is not IntentCall.LOAD or asked is None or says is None or asked == says:
            return
        if not at_least(facts.environment.lightning, "2.2"):
            return
        name = facts.spec.class_name
        yield self.finding(
            f"the call says strict={asked}, the class says strict_loading={says}",
            evidence=[Evidence(f"{name}.strict_loading", repr(says), facts.resolved_target.file)],
            fixes=[
                Fix(
                    title="Let the class decide:",
                    kind=FixKind.LOAD_ARGUMENT,
                    applicability=Applicability.SAFE,
                    code=facts.question.load_call(strict=LEFT_OUT),
                )
            ],
            subjects=["strict"],
            predicts=Prediction(
                Stage.CONSTRUCT,
                facts.call_name,
                "ValueError",
                f"`{name}.strict_loading={says!r}. Please set the same value",
            ),
        )

"""RL511."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Severity, Stage
from relight.core.target import Intent, IntentCall
from relight.facts import data
from relight.facts.facts import Facts
from relight.facts.versions import at_least
from relight.rulekit import Env, Fires, Model, Phase, Rule, Silent

_OLD = Env(packages={"torch": "2.0.1", "pytorch-lightning": "2.0.9"})


class LoadOnInstance(Rule):
    """The script calls load_from_checkpoint on an object, not on its class.

    What it checks
    --------------
    How the target's own script makes the call at which it is stopped.

    Why loading fails
    -----------------
    load_from_checkpoint makes a *new* model and gives it back; the object that it is called on stays as it was. Since
    Lightning 2.1 that is refused: ``TypeError: The classmethod `MyModel.load_from_checkpoint` cannot be called on an
    instance``. Before, it went by without a word, and the object kept its random weights.

    How to fix
    ----------
    Call it on the class, and use what it gives back.

    References
    ----------
    pytorch_lightning/utilities/model_helpers.py, ``_restricted_classmethod_impl``.
    """

    code = "RL511"
    name = "load-on-instance"
    causes = ("load-on-instance", "load-on-instance-silent")
    phase = Phase.CONTENTS
    needs = frozenset({"target", "environment"})
    examples = (
        Fires(name="on an object", model=Model(on_instance=True), cause="load-on-instance"),
        Fires(
            name="on an object, in a Lightning that lets it pass",
            model=Model(on_instance=True),
            env=_OLD,
            cause="load-on-instance-silent",
        ),
        Silent(name="on the class", model=Model()),
        Silent(
            name="another call is asked about",
            model=Model(on_instance=True),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """An ERROR where Lightning refuses it; where it does not, the load is wrong without a word."""
        target = facts.resolved_target
        if not target.stopped_on_instance or facts.intent.call is not IntentCall.LOAD:
            return
        since = data.load("lightning_behaviour")["load_from_checkpoint"]["refuses_instances_since"]["version"]
        refused = at_least(facts.environment.lightning, since)
        if refused is None:
            return
        name = target.class_name or "MyModel"
        yield self.finding(
            "load_from_checkpoint is called on an object: what it gives back is another one",
            cause=self.causes[0 if refused else 1],
            severity=Severity.ERROR if refused else Severity.WARNING,
            evidence=[Evidence(target.stopped_at or "the script", f"calls it on an object of {name}")],
            context=[] if refused else ["The object that it is called on keeps the values that it had."],
            fixes=[
                Fix(
                    title="Call it on the class, and go on with what it gives back:",
                    kind=FixKind.CODE,
                    applicability=Applicability.SAFE,
                    code=f"model = {facts.question.load_call()}",
                )
            ],
            subjects=[target.stopped_at or name],
            predicts=Prediction(
                Stage.OPEN,
                facts.call_name,
                "TypeError",
                f"The classmethod `{name}.load_from_checkpoint` cannot be called on an instance.",
            )
            if refused
            else None,
            wrong=not refused,
        )

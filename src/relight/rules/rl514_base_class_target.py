"""RL514."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind, Intent, IntentCall
from relight.facts import describe
from relight.facts.comparison import load_error
from relight.facts.facts import Facts
from relight.rulekit import Fires, Model, Phase, Rule, Silent


class BaseClassTarget(Rule):
    """The target is LightningModule itself, which has no layers.

    What it checks
    --------------
    Whether the target is the class of Lightning, not one that is built on it.

    Why loading fails
    -----------------
    load_from_checkpoint builds the class that it is called on. LightningModule takes no arguments and has no weights:
    ``Unexpected key(s) in state_dict``, with every key of the file; or, where the file has hyper_parameters, ``got an
    unexpected keyword argument``.

    How to fix
    ----------
    Call it on the class that was trained. The file does not say which one that was.

    References
    ----------
    pytorch_lightning/core/module.py, ``load_from_checkpoint``.
    """

    code = "RL514"
    name = "base-class-target"
    causes = ("abstract-lightningmodule",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "target"})
    examples = (
        Fires(name="LightningModule", model=Model(kind="base", params={}), oracle=False),
        Fires(
            name="LightningModule, and the file has arguments for another class",
            model=Model(
                kind="base",
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="TypeError",
                    message="_DeviceDtypeModuleMixin.__init__() got an unexpected keyword argument 'width'",
                    stage="construct",
                ),
            ),
            oracle=False,
        ),
        Silent(name="a class of the user's"),
        Silent(name="a class of the user's that is called like it", model=Model(name="LightningModule")),
        Silent(
            name="plain torch.load",
            model=Model(kind="base", params={}),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The exception that was seen, or that the keys lead to."""
        if not facts.targets_base_class or not facts.calls_lightning:
            return
        failure = facts.failure
        predicts = None
        if failure is None and facts.checkpoint.state_dict_path is not None:
            predicts = load_error(facts)
        elif failure is not None and failure.kind is FailureKind.INIT_ERROR:
            predicts = Prediction(Stage.CONSTRUCT, facts.call_name, failure.exception or "TypeError", failure.message)
        if predicts is None:
            return
        keys = [t.key for t in facts.checkpoint.tensors]
        yield self.finding(
            "LightningModule itself has no layers: the class that was trained is needed",
            evidence=[Evidence("checkpoint", f"{describe.tensors(len(keys))}: {describe.some(keys, 3)}")],
            fixes=[
                Fix(
                    title="Give the class that was trained; relight FILE names those in this folder.", kind=FixKind.CODE
                )
            ],
            subjects=keys,
            explains=frozenset(keys),
            predicts=predicts,
        )

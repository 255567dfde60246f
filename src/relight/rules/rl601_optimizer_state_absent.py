"""RL601."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY
from relight.facts.question import literal
from relight.rulekit import File, Fires, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_WHOLE = {"epoch": 2, "global_step": 8, "optimizer_states": [], "lr_schedulers": []}


class OptimizerStateAbsent(Rule):
    """The file holds the model only, and a training is to be resumed from it.

    What it checks
    --------------
    Whether ``optimizer_states`` and ``lr_schedulers`` are in the file, for ``Trainer.fit(ckpt_path=)``.

    Why loading fails
    -----------------
    ``KeyError: Trying to restore optimizer state but checkpoint contains only the model``. ModelCheckpoint writes
    such files with ``save_weights_only=True``.

    How to fix
    ----------
    Load the weights with load_from_checkpoint and start a new fit: the optimizer starts afresh.

    References
    ----------
    pytorch_lightning/trainer/connectors/checkpoint_connector.py, ``restore_optimizers_and_schedulers``.
    """

    code = "RL601"
    name = "optimizer-state-absent"
    causes = ("weights-only-ckpt-resume",)
    phase = Phase.CONTENTS
    needs = frozenset({"contents"})
    examples = (
        Fires(name="weights only", file=File(extra={"epoch": 2, "global_step": 8}), intent=_RESUME, oracle=False),
        Fires(
            name="no schedulers",
            file=File(extra={"epoch": 2, "global_step": 8, "optimizer_states": []}),
            intent=_RESUME,
            oracle=False,
        ),
        Silent(name="a whole file", file=File(extra=_WHOLE), intent=_RESUME),
        Silent(name="weights only, and only they are wanted", file=File(extra={"epoch": 2, "global_step": 8})),
        Silent(name="no Lightning file: another rule has that", file=File(raw=True), intent=_RESUME),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The first of the two that is missing is the one that raises."""
        view = facts.lightning
        if facts.intent.call is not IntentCall.RESUME or not view.has(VERSION_KEY):
            return
        for key, what in (("optimizer_states", "optimizer"), ("lr_schedulers", "learning rate scheduler")):
            if view.has(key):
                continue
            name = facts.question.class_name or "MyModel"
            yield self.finding(
                f"the file has no {what} state: it holds the model only",
                evidence=[Evidence(key, "is not in the file")],
                fixes=[
                    Fix(
                        title="Load the weights, and start a new fit without ckpt_path; the optimizer starts afresh:",
                        kind=FixKind.CODE,
                        applicability=Applicability.UNSAFE,
                        code=f"model = {name}.load_from_checkpoint({literal(facts.question.path)})\ntrainer.fit(model)",
                    )
                ],
                subjects=[key],
                predicts=Prediction(
                    Stage.RESTORE,
                    facts.call_name,
                    "KeyError",
                    f"Trying to restore {what} state but checkpoint contains only the model.",
                ),
            )
            return

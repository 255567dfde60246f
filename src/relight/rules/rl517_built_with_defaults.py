"""RL517."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import InitParam, Intent, IntentCall
from relight.facts import describe
from relight.facts.facts import Facts
from relight.facts.question import Code
from relight.facts.sized_arguments import counting_argument, sized_arguments
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_WIDTH = InitParam("width", False, "8")
_NOT_OF_THE_MODEL = frozenset(
    {
        "lr",
        "learning_rate",
        "weight_decay",
        "momentum",
        "betas",
        "batch_size",
        "num_workers",
        "max_epochs",
        "warmup_steps",
    }
)


class BuiltWithDefaults(Rule):
    """The file holds no hyper_parameters, so that the model is built with the defaults of its class.

    What it checks
    --------------
    Files without hyper_parameters, and classes whose constructor has arguments that shape the model, all of them with
    defaults. Arguments of the training alone, such as the learning rate, do not count.

    Why loading fails
    -----------------
    It does not, or with a size mismatch. Without ``save_hyperparameters()`` nothing of the training's arguments is in
    the file. Sizes that differ show; a dropout rate, a number of heads or an activation does not.

    How to fix
    ----------
    Pass the arguments of the training to the call. For files to come, call ``self.save_hyperparameters()``.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_state``.
    """

    code = "RL517"
    name = "built-with-defaults"
    causes = ("hparams-absent-defaults",)
    severity = Severity.NOTE
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="a size", model=Model(init=(_WIDTH,))),
        Fires(
            name="a size that does not fit",
            file=File(tensors={"net.weight": (2, 3), "net.bias": (2,)}),
            model=Model(params={"net.weight": (8, 3), "net.bias": (8,)}, init=(_WIDTH,)),
        ),
        Silent(name="no arguments at all", model=Model()),
        Silent(name="arguments in the file", file=File(hparams={"width": 4}), model=Model(init=(_WIDTH,))),
        Silent(name="passed in the call", model=Model(init=(_WIDTH,)), intent=Intent(init=("width",))),
        Silent(name="only the learning rate", model=Model(init=(InitParam("lr", False, "0.1"),))),
        Silent(name="one is required, which another rule says", model=Model(init=("depth", _WIDTH))),
        Silent(name="plain torch.load", model=Model(init=(_WIDTH,)), intent=Intent(call=IntentCall.WEIGHTS)),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only where nothing at all was saved."""
        target = facts.resolved_target
        if facts.intent.call is not IntentCall.LOAD or target.class_kind != "lightning" or facts.arguments is None:
            return
        if facts.lightning.hparams_key is not None or facts.question.hparams_file is not None or target.init is None:
            return
        if facts.arguments.missing:
            return
        shaping = [p for p in target.init.params if p.name not in facts.intent.init and p.name not in _NOT_OF_THE_MODEL]
        if not shaping:
            return
        differ = facts.attribution.of("size", "head", "vocabulary", "positions", "channels")
        lists = facts.attribution.of("added", "removed")
        sized = sized_arguments(facts, [m for e in differ for m in e.mismatched]) or counting_argument(facts, lists)
        passed: dict[str, object] = {**sized} if sized else {shaping[0].name: Code("...")}
        yield self.finding(
            "the file holds no hyper_parameters: the model is built with the defaults of its class",
            confidence=Confidence.POSSIBLE,
            evidence=[
                Evidence(
                    f"{target.class_name or 'the class'}.__init__",
                    describe.some(f"{p.name}={p.default}" for p in shaping),
                    target.init.location,
                )
            ],
            fixes=[
                Fix(
                    title="If the training used others, pass them to the call:",
                    kind=FixKind.LOAD_ARGUMENT,
                    code=facts.question.load_call(**passed),
                )
            ],
            subjects=[p.name for p in shaping],
        )

"""RL505."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import InitParam, Intent, IntentCall
from relight.facts import describe, renamed_argument
from relight.facts.comparison import load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent


class ArgumentDropped(Rule):
    """A saved hyper_parameter is dropped because the constructor does not take it, and a default is used instead.

    What it checks
    --------------
    Saved names that the constructor does not take, where another argument, left to its default, looks like the same
    thing under a new name. A name that is simply gone is not reported.

    Why loading fails
    -----------------
    Lightning filters unknown names out without a word. The model is then built with the default of the new name: it
    loads and may compute something else, or it has other shapes than the file.

    How to fix
    ----------
    Pass the saved value under its new name.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_state``.
    """

    code = "RL505"
    name = "argument-dropped"
    causes = ("hparam-renamed-default",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "target"})
    examples = (
        Fires(
            name="renamed, with a default",
            file=File(hparams={"dropout": 0.1}),
            model=Model(init=(InitParam("dropout_rate", False, "0.5"),)),
        ),
        Fires(
            name="renamed, and the shapes show it",
            file=File(
                tensors={"a.weight": (16, 8), "a.bias": (16,), "b.weight": (1, 16)}, hparams={"hidden": 16}
            ),
            model=Model(
                params={"a.weight": (64, 8), "a.bias": (64,), "b.weight": (1, 64)},
                init=(InitParam("hidden_dim", False, "64"),),
            ),
        ),
        Silent(
            name="simply gone",
            file=File(hparams={"data_dir": "x", "width": 8}),
            model=Model(init=(InitParam("width", False, "4"),)),
        ),
        Silent(
            name="the same value as the default",
            file=File(hparams={"dropout": 0.5}),
            model=Model(init=(InitParam("dropout_rate", False, "0.5"),)),
        ),
        Silent(
            name="only the weights: nothing is passed to the constructor",
            file=File(hparams={"dropout": 0.1}),
            model=Model(init=(InitParam("dropout_rate", False, "0.5"),)),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Silent(name="taken by **kwargs", file=File(hparams={"dropout": 0.1}),
               model=Model(init=(InitParam("dropout_rate", False, "0.5"),), var_keyword=True)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """An ERROR where shapes prove it, a WARNING where they cannot."""
        arguments = facts.arguments
        if arguments is None or not facts.constructs:
            return
        proved = {}
        modelled = facts.resolved_target.spec is not None and facts.resolved_target.class_kind != "datamodule"
        if modelled and facts.checkpoint.state_dict_path is not None:
            proved = {e.about["dropped"]: e for e in facts.attribution.of("argument")}
        values = dict(arguments.dropped)
        for old, param in arguments.renamed.items():
            value = values[old]
            if param.required or repr(value) == param.default or not isinstance(value, (str, int, float, bool)):
                continue
            explanation = proved.get(old)
            yield self.finding(
                f"{old}={value!r} in the checkpoint is dropped; the class takes {param.name}={param.default} instead",
                severity=Severity.ERROR if explanation else Severity.WARNING,
                confidence=Confidence.LIKELY if explanation else Confidence.POSSIBLE,
                evidence=[
                    Evidence(f"hyper_parameters.{old}", repr(value)),
                    Evidence(
                        f"{facts.resolved_target.class_name or 'the class'}.__init__",
                        f"takes {param.name}, not {old}",
                        None if facts.resolved_target.init is None else facts.resolved_target.init.location,
                    ),
                    *(describe.shapes(facts.spec, explanation.mismatched[:2]) if explanation else ()),
                ],
                context=["Lightning leaves out names that the constructor does not take, without a word."],
                fixes=[
                    Fix(
                        title=f"If {param.name} is the new name of {old}, pass the saved value under it:",
                        kind=FixKind.LOAD_ARGUMENT,
                        applicability=Applicability.SAFE,
                        code=facts.question.load_call(**{param.name: value}),
                    ),
                    *renamed_argument.fixes(facts, {old: param.name}),
                ],
                subjects=[old],
                explains=explanation.keys if explanation else (),
                predicts=load_error(facts) if explanation else None,
            )

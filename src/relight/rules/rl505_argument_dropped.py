"""RL505."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import InitParam, Intent, IntentCall
from relight.facts import describe, renamed_argument
from relight.facts.attribution import Explanation
from relight.facts.comparison import load_error
from relight.facts.describe import listed
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
        Fires(
            name="names that have nothing in common, and the shapes show it",
            file=File(
                tensors={"a.weight": (16, 8), "a.bias": (16,), "b.weight": (64, 16)},
                hparams={"hidden": 16, "dropout": 0.1},
            ),
            model=Model(
                params={"a.weight": (8, 8), "a.bias": (8,), "b.weight": (32, 8)},
                init=(InitParam("width", False, "8"), InitParam("drop_prob", False, "0.5")),
            ),
        ),
        Silent(
            name="simply gone",
            file=File(hparams={"data_dir": "x", "width": 8}),
            model=Model(init=(InitParam("width", False, "4"),)),
        ),
        Silent(
            name="a size in the file that two values could have led to",
            file=File(
                tensors={"a.weight": (16, 8), "b.weight": (1, 16)}, hparams={"hidden": 16, "batch": 16}
            ),
            model=Model(params={"a.weight": (8, 8), "b.weight": (1, 8)}, init=(InitParam("width", False, "8"),)),
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
        """One finding for all of them: an ERROR where shapes show it, a WARNING where they cannot."""
        arguments = facts.arguments
        if arguments is None or not facts.constructs or any(p.required for p in arguments.renamed.values()):
            return  # argument-missing names them all, in one call
        values = dict(arguments.dropped)
        renamed = {
            old: param
            for old, param in arguments.renamed.items()
            if repr(values[old]) != param.default and isinstance(values[old], (str, int, float, bool))
        }
        if not renamed:
            return
        shown: tuple[Explanation, ...] = ()
        modelled = facts.resolved_target.spec is not None and facts.resolved_target.class_kind != "datamodule"
        if modelled and facts.checkpoint.state_dict_path is not None:
            shown = facts.attribution.of("argument")
        proved = {old for e in shown for old in e.about["dropped"]}
        guesses = [old for old in renamed if old not in proved]
        init = facts.resolved_target.init
        new = {param.name: values[old] for old, param in renamed.items()}
        told = listed([f"{old}={values[old]!r}" for old in renamed])
        taken = listed([f"{p.name}={p.default}" for p in renamed.values()])
        context = ["Lightning leaves out names that the constructor does not take, without a word."]
        if guesses and shown:
            said = listed([f"{renamed[old].name} is the new name of {old}" for old in guesses])
            context.append(f"The shapes show {listed(sorted(proved))}; that {said} is a guess.")
        one = len(renamed) == 1
        first = next(iter(renamed))
        yield self.finding(
            f"{told} in the checkpoint {'is' if one else 'are'} dropped; the class takes {taken} instead",
            severity=Severity.ERROR if shown else Severity.WARNING,
            confidence=Confidence.LIKELY if shown else Confidence.POSSIBLE,
            evidence=[
                *(Evidence(f"hyper_parameters.{old}", repr(values[old])) for old in renamed),
                Evidence(
                    f"{facts.resolved_target.class_name or 'the class'}.__init__",
                    f"takes {listed([p.name for p in renamed.values()])}, not {listed(list(renamed))}",
                    None if init is None else init.location,
                ),
                *describe.shapes(facts.spec, [m for e in shown for m in e.mismatched][:2]),
            ],
            context=context,
            fixes=[
                Fix(
                    title=f"If {renamed[first].name} is the new name of {first}, pass the saved value under it:"
                    if one
                    else "If these are their new names, pass the saved values under them:",
                    kind=FixKind.LOAD_ARGUMENT,
                    applicability=Applicability.SAFE,
                    code=facts.question.load_call(**new),
                ),
                *renamed_argument.fixes(facts, {old: param.name for old, param in renamed.items()}),
            ],
            subjects=list(renamed),
            explains=frozenset(k for e in shown for k in e.keys),
            predicts=load_error(facts) if shown else None,
        )

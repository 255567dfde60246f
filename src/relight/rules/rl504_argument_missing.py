"""RL504."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind, InitParam, Intent, IntentCall
from relight.facts import renamed_argument
from relight.facts.arguments import missing_message
from relight.facts.brief import brief
from relight.facts.describe import listed
from relight.facts.facts import Facts
from relight.facts.question import Code
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent


class ArgumentMissing(Rule):
    """The constructor needs an argument that the checkpoint does not give it.

    What it checks
    --------------
    The required arguments of the class against the hyper_parameters of the file, sorted as Lightning sorts them,
    and what the call passes besides.

    Why loading fails
    -----------------
    load_from_checkpoint calls the constructor with the saved hyper_parameters: ``TypeError: __init__() missing 1
    required positional argument``. Without ``save_hyperparameters()`` nothing was saved; after a rename the value
    is there under its old name and gets dropped.

    How to fix
    ----------
    Pass the argument to load_from_checkpoint. For files to come, call ``self.save_hyperparameters()``.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_state``.
    """

    code = "RL504"
    name = "argument-missing"
    causes = ("missing-positional", "init-arg-renamed", "hparams-name-mismatch", "datamodule-vs-module")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "target"})
    examples = (
        Fires(name="nothing was saved", model=Model(init=("width", "depth"))),
        Fires(name="one argument is new", file=File(hparams={"width": 8}), model=Model(init=("width", "depth"))),
        Fires(
            name="renamed since",
            file=File(hparams={"hidden": 16}),
            model=Model(init=("hidden_dim",)),
            cause="init-arg-renamed",
        ),
        Fires(
            name="the argument that takes them all was renamed",
            file=File(hparams={"width": 8, "depth": 2}, extra={"hparams_name": "cfg"}),
            model=Model(init=("conf",)),
            cause="hparams-name-mismatch",
        ),
        Fires(
            name="a LightningDataModule, and the file has only the model's",
            file=File(hparams={"width": 8}),
            model=Model(kind="datamodule", init=("root",)),
            cause="datamodule-vs-module",
            oracle=False,  # recipes make models; tests/live/test_instances_and_datamodules.py asks Lightning
        ),
        Silent(
            name="a LightningDataModule whose arguments are in the file",
            file=File(extra={"datamodule_hyper_parameters": {"root": "data"}}),
            model=Model(kind="datamodule", init=("root",)),
        ),
        Silent(
            name="to be resumed: the model is the user's, made with arguments of its own",
            file=File(hparams={}),
            model=Model(init=("width",)),
            intent=Intent(call=IntentCall.RESUME),
        ),
        Silent(
            name="only the weights: the model is the user's",
            file=File(hparams={}),
            model=Model(init=("width",)),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Silent(name="all are saved", file=File(hparams={"width": 8, "depth": 2}), model=Model(init=("width", "depth"))),
        Silent(name="the new one has a default", model=Model(init=(InitParam("depth", False, "2"),))),
        Silent(name="passed in the call", model=Model(init=("width",)), intent=Intent(init=("width",))),
        Silent(
            name="all in one argument",
            file=File(hparams={"width": 8}, extra={"hparams_name": "cfg"}),
            model=Model(init=("cfg",)),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """What the signature says; the real exception, where one was seen, gives the text."""
        if not facts.constructs:
            return
        arguments = facts.arguments
        target = facts.resolved_target
        missing = () if arguments is None else arguments.missing
        failure = target.failure
        if not missing:
            return
        if failure is not None and not _is_this(failure):
            return
        names = [p.name for p in missing]
        of_data = target.class_kind == "datamodule"
        values = dict(facts.lightning.data_parameters if of_data else facts.lightning.hyper_parameters)
        # Others than the missing ones go into the same call, where their saved value is not the default.
        renamed = {
            p.name: old
            for old, p in (arguments.renamed if arguments else {}).items()
            if p.required or (repr(values.get(old)) != p.default and _plain(values.get(old)))
        }
        found = any(n in renamed for n in names)
        if not found:
            renamed = {}
        passes: dict[str, object] = {n: Code("...") for n in names}
        for name, old in renamed.items():
            passes[name] = values[old] if _plain(values.get(old)) else Code("...")
        context = []
        if renamed:
            pairs = ", ".join(f"{old} = {brief(values.get(old))}" for old in renamed.values())
            them = "it was probably renamed to" if len(renamed) == 1 else "they were probably renamed to"
            context.append(
                f"The file has {pairs}, which the class no longer takes: {them} "
                f"{', '.join(renamed)}. Lightning drops names that the constructor does not take, without a word."
            )
        elif of_data and not facts.lightning.has("datamodule_hyper_parameters"):
            context.append(
                "The file holds no datamodule_hyper_parameters: the LightningDataModule did not call "
                "save_hyperparameters(), or was not part of the training."
            )
        elif facts.lightning.hparams_key is None and not of_data:
            context.append("The file holds no hyper_parameters: save_hyperparameters() was not called in __init__.")
        else:
            saved = ", ".join(values) or "none"
            context.append(f"The file holds these hyper_parameters: {saved}.")
        location = None if target.init is None else target.init.location
        yield self.finding(
            f"the constructor needs {listed(names)}, which the checkpoint does not give it",
            cause="init-arg-renamed" if renamed else _cause(facts, names),
            evidence=[Evidence(f"{target.class_name or 'the class'}.__init__", f"needs {listed(names)}", location)],
            context=context,
            fixes=[
                Fix(
                    title="Pass it to the call:" if len(passes) == 1 else "Pass them to the call:",
                    kind=FixKind.LOAD_ARGUMENT,
                    applicability=Applicability.SAFE if renamed else Applicability.MANUAL,
                    code=facts.question.load_call(**passes),
                ),
                *renamed_argument.fixes(facts, {old: new for new, old in renamed.items()}),
            ],
            subjects=names,
            predicts=Prediction(
                Stage.CONSTRUCT,
                facts.call_name,
                "TypeError",
                failure.message if failure is not None else missing_message(target.class_name or "", missing),
            ),
        )


def _is_this(failure: BuildFailure) -> bool:
    return failure.kind is FailureKind.INIT_ERROR and bool(
        re.search(r"__init__\(\) missing \d+ required", failure.message)
    )


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bool))


def _cause(facts: Facts, names: list[str]) -> str:
    view = facts.lightning
    if facts.resolved_target.class_kind == "datamodule":
        return "missing-positional" if view.has("datamodule_hyper_parameters") else "datamodule-vs-module"
    if view.hparams_name not in (None, "kwargs") and view.hparams_name not in names and view.hyper_parameters:
        return "hparams-name-mismatch"
    return "missing-positional"

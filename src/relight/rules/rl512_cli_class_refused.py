"""RL512."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Prediction, Severity, Stage
from relight.core.target import BuildFailure, FailureKind, Intent, IntentCall
from relight.facts import data
from relight.facts.brief import brief
from relight.facts.facts import Facts
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Model, Phase, Rule, Silent

_OWN = {"_instantiator": "my_cli.instantiate", "width": 8}
_CLI = {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "models.MyModel", "width": 8}
_OLD = Env(packages={"torch": "2.5.1", "lightning": "2.5.6", "pytorch-lightning": "2.5.6"})
_REFUSED = "does not resolve to an already imported subclass"


class CliClassRefused(Rule):
    """The file of a LightningCLI run names what builds the model, and this Lightning does not trust it.

    What it checks
    --------------
    ``_instantiator`` in the hyper_parameters against the list of Lightning 2.6.6; and ``_class_path``, where the class
    was really asked.

    Why loading fails
    -----------------
    LightningCLI writes down which function builds the model, and of which class it is. Up to 2.6.5 the function that
    the file names is imported and called, also with ``weights_only=True``. Since 2.6.6: ``ValueError: The instantiator
    'my_cli.instantiate' from the checkpoint is not in the allowlist of trusted instantiators and was blocked``.

    How to fix
    ----------
    Import the module of the class before loading. An instantiator of your own has to be put on Lightning's list, or
    taken out of a copy of the file.

    References
    ----------
    pytorch_lightning/core/saving.py of 2.6.6, ``_ALLOWED_INSTANTIATORS``, ``_is_imported_subclass``.
    """

    code = "RL512"
    name = "cli-class-refused"
    causes = ("instantiator-blocked", "class-path-blocked")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="an instantiator of the user's own",
            file=File(hparams=_OWN),
            model=Model(init=("width",)),
            cause="instantiator-blocked",
        ),
        Fires(
            name="an instantiator that an older Lightning would call",
            file=File(hparams=_OWN),
            env=_OLD,
            cause="instantiator-blocked",
        ),
        Fires(
            name="a class that is not imported",
            file=File(hparams=_CLI),
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="ValueError",
                    message="The class 'models.MyModel' requested by the checkpoint does not resolve to an already "
                    "imported subclass of MyModel and was blocked to prevent arbitrary code execution.",
                    stage="construct",
                )
            ),
            cause="class-path-blocked",
            oracle=False,
        ),
        Silent(name="LightningCLI's own", file=File(hparams={"_instantiator": _CLI["_instantiator"]}), env=_OLD),
        Silent(name="no LightningCLI", file=File(hparams={"width": 8}), model=Model(init=("width",))),
        Silent(name="plain torch.load", file=File(hparams=_CLI), intent=Intent(call=IntentCall.WEIGHTS)),
        Silent(
            name="another failure",
            file=File(hparams={"width": 8}),
            model=Model(failure=BuildFailure(kind=FailureKind.INIT_ERROR, exception="ValueError", message="no")),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The instantiator first: Lightning asks for it first."""
        if not facts.calls_lightning or facts.intent.call is not IntentCall.LOAD:
            return
        saved = dict(facts.lightning.hyper_parameters)
        path = saved.get("_instantiator")
        known = data.load("lightning_behaviour")["instantiators"]
        if "_instantiator" in saved and path is not None and path not in known["trusted"]:
            checks = at_least(facts.environment.lightning, known["checked_since"])
            if checks is not None:
                yield self._instantiator(facts, brief(path), refused=checks)
            return
        failure = facts.resolved_target.failure if facts.has_target else None
        if failure is not None and failure.kind is FailureKind.INIT_ERROR and _REFUSED in failure.message:
            wanted = saved.get("_class_path")
            module = wanted.rpartition(".")[0] if isinstance(wanted, str) else ""
            fix = Fix(
                title="Import its module before loading, and load into the class or one above it:",
                kind=FixKind.CODE,
                code=f"import {module}\nmodel = {facts.question.load_call()}" if module else None,
            )
            yield self.finding(
                f"the file asks for the class {brief(wanted)}, which is not imported or is no subclass of the target",
                cause="class-path-blocked",
                evidence=[Evidence("hyper_parameters._class_path", brief(wanted))],
                fixes=[fix],
                subjects=["_class_path"],
                predicts=Prediction(Stage.CONSTRUCT, facts.call_name, "ValueError", failure.message),
            )

    def _instantiator(self, facts: Facts, path: str, *, refused: bool) -> Finding:
        package = "pytorch_lightning" if "pytorch-lightning" in facts.environment.packages else "lightning.pytorch"
        return self.finding(
            f"the file asks for {path} to build the model"
            + (", which Lightning does not trust" if refused else ": this Lightning imports and calls it"),
            cause="instantiator-blocked",
            severity=Severity.ERROR if refused else Severity.WARNING,
            evidence=[Evidence("hyper_parameters._instantiator", path)],
            context=[]
            if refused
            else ["It does so with weights_only=True as well. Lightning 2.6.6 and newer refuse it."],
            fixes=[
                Fix(
                    title="If it is yours, and the file too, put it on Lightning's list before loading:",
                    kind=FixKind.CODE,
                    code=f"from {package}.core import saving\nsaving._ALLOWED_INSTANTIATORS.add({path})",
                )
            ]
            if refused
            else [],
            subjects=["_instantiator"],
            predicts=Prediction(
                Stage.CONSTRUCT,
                facts.call_name,
                "ValueError",
                f"The instantiator {path} from the checkpoint is not in the allowlist of trusted instantiators",
            )
            if refused
            else None,
        )

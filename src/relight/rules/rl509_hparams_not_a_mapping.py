"""RL509."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import MakePlain, SetEntry
from relight.core.finding import Applicability, Finding, Fix, FixKind, Prediction, Stage
from relight.core.objects import Call, mapping_pairs
from relight.core.target import Intent, IntentCall
from relight.facts import snippets
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY, type_name
from relight.rulekit import File, Fires, Obj, Phase, Rule, Silent


class HparamsNotAMapping(Rule):
    """The hyper_parameters of the file are no dict.

    What it checks
    --------------
    Whether ``hyper_parameters`` is a dict or one of the dict-like classes that Lightning writes.

    Why loading fails
    -----------------
    Lightning updates them with the arguments of the call: ``AttributeError: 'Namespace' object has no attribute
    'update'``.

    How to fix
    ----------
    Turn them into a dict in a copy.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_from_checkpoint``.
    """

    code = "RL509"
    name = "hparams-not-a-mapping"
    causes = ("hparams-is-namespace", "hparams-none")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="None", file=File(extra={"hyper_parameters": None}), cause="hparams-none"),
        Fires(
            name="a Namespace",
            file=File(extra={"hyper_parameters": Obj("argparse.Namespace", {"width": 8})}),
            intent=Intent(weights_only=False),
            cause="hparams-is-namespace",
        ),
        Silent(name="a dict", file=File(hparams={"width": 8})),
        Silent(name="none saved"),
        Silent(name="plain torch.load", file=File(extra={"hyper_parameters": None}), intent=Intent(call=IntentCall.WEIGHTS)),
        Silent(
            name="a Namespace inside of a dict",
            file=File(hparams={"args": Obj("argparse.Namespace", {"width": 8})}),
            intent=Intent(weights_only=False),
        ),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """None and Namespace are what is met; other classes may have an update method."""
        view = facts.lightning
        if facts.intent.call is not IntentCall.LOAD or not view.has("hyper_parameters") or not view.has(VERSION_KEY):
            return
        value = view.get("hyper_parameters")
        namespace = isinstance(value, Call) and value.name == "argparse.Namespace"
        if mapping_pairs(value) is not None or not (value is None or namespace):
            return
        name = "Namespace" if namespace else "NoneType"
        yield self.finding(
            f"the hyper_parameters are {'an ' + type_name(value) if namespace else 'None'}, not a dict",
            cause=self.causes[0] if namespace else self.causes[1],
            fixes=[
                Fix(
                    title="Turn them into a dict in a copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    code=snippets.set_entry(facts, "hyper_parameters", {})
                    if value is None
                    else snippets.namespace_to_dict(facts),
                    edits=(SetEntry(("hyper_parameters",), {}) if value is None else MakePlain(),),
                )
            ],
            subjects=["hyper_parameters"],
            predicts=Prediction(
                Stage.CONSTRUCT, facts.call_name, "AttributeError", f"'{name}' object has no attribute 'update'"
            ),
        )

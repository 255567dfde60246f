"""RL508."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import MoveEntry
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts import describe, snippets
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY
from relight.rulekit import File, Fires, Phase, Rule, Silent


class NoStateDict(Rule):
    """A Lightning file without a state_dict.

    What it checks
    --------------
    Files that state a Lightning version and have no key ``state_dict``.

    Why loading fails
    -----------------
    Lightning builds the model and then asks the file for its weights: ``KeyError: 'state_dict'``.

    How to fix
    ----------
    Where the weights are under another key, rename it in a copy.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_from_checkpoint``.
    """

    code = "RL508"
    name = "no-state-dict"
    causes = ("no-state-dict-key", "deepspeed-module-key")
    phase = Phase.CONTENTS
    needs = frozenset({"contents"})
    examples = (
        Fires(name="under another name", file=File(under="model")),
        Fires(name="under DeepSpeed's name", file=File(under="module"), cause="deepspeed-module-key"),
        Silent(name="where it belongs"),
        Silent(name="a plain state_dict", file=File(raw=True)),
        Silent(name="plain torch.load", file=File(under="model"), intent=Intent(call=IntentCall.WEIGHTS)),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Where the tensors are instead."""
        view = facts.lightning
        if not facts.calls_lightning or not view.has(VERSION_KEY) or view.has("state_dict"):
            return
        path = facts.checkpoint.state_dict_path
        found = None if path is None or len(path) != 1 else str(path[0])
        fixes = []
        evidence = []
        if found is not None:
            evidence.append(Evidence(found, describe.tensors(len(facts.checkpoint.tensors))))
            fixes.append(
                Fix(
                    title="Put them where Lightning looks, in a copy; no tensor changes:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    code=snippets.rename_entry(facts, found, "state_dict"),
                    edits=(MoveEntry((found,), ("state_dict",)),),
                )
            )
        yield self.finding(
            "the file has no state_dict" + (f"; its weights are under {found!r}" if found else ""),
            cause=self.causes[1] if found == "module" else self.causes[0],
            evidence=evidence,
            fixes=fixes,
            subjects=["state_dict"],
            predicts=Prediction(Stage.LOAD_STATE_DICT, facts.call_name, "KeyError", "'state_dict'"),
        )

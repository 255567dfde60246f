"""RL516."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import MoveEntry
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.objects import mapping_pairs
from relight.facts import describe, snippets
from relight.facts.facts import Facts
from relight.facts.question import literal
from relight.rulekit import File, Fires, Phase, Rule, Silent, Tensor

_SAME = {"net.weight": Tensor((2, 3)), "net.bias": Tensor((2,))}
# How much of the weights' keys another entry must have to be a second set of them.
_SHARE = 0.8


class SecondWeights(Rule):
    """The file holds the weights twice, averaged and as they were trained, and loading takes one of the two.

    What it checks
    --------------
    Whether another entry of the file has the keys of the state_dict: ``current_model_state`` of Lightning's
    WeightAveraging, ``state_dict_ema``, ``model_ema`` and the like.

    Why loading fails
    -----------------
    It does not. With Lightning's WeightAveraging ``state_dict`` holds the *averaged* weights, in files of most other
    programs the raw ones; which of the two gave the numbers that are remembered the file does not say.

    How to fix
    ----------
    Nothing, where the set that is loaded is the one that is wanted. Whoever changes keys in a copy changes both sets.

    References
    ----------
    pytorch_lightning/callbacks/weight_averaging.py of 2.6, ``on_save_checkpoint``.
    """

    code = "RL516"
    name = "second-weights"
    causes = ("ema-vs-raw-swapped",)
    severity = Severity.NOTE
    phase = Phase.CONTENTS
    needs = frozenset({"contents"})
    examples = (
        Fires(name="Lightning's WeightAveraging", file=File(extra={"current_model_state": _SAME})),
        Fires(name="another program's", file=File(extra={"state_dict_ema": _SAME})),
        Silent(name="one set"),
        Silent(name="another model beside it", file=File(extra={"teacher": {"conv.weight": Tensor((3,))}})),
        Silent(
            name="the same names, and no tensors", file=File(extra={"shapes": {"net.weight": [2, 3], "net.bias": [2]}})
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for the first such entry."""
        path = facts.checkpoint.state_dict_path
        if path is None or len(path) != 1:
            return
        keys = {t.key for t in facts.checkpoint.tensors}
        for name in facts.lightning.root_keys:
            if name == path[0]:
                continue
            pairs = mapping_pairs(facts.lightning.get(name)) or ()
            same = [k for k, v in pairs if k in keys and facts.is_tensor(v)]
            if not keys or len(same) < _SHARE * len(keys):
                continue
            averaged = name == "current_model_state"
            yield self.finding(
                f"the file holds the weights twice; {literal(str(path[0]))} is what is loaded",
                confidence=Confidence.CERTAIN if averaged else Confidence.LIKELY,
                evidence=[
                    Evidence(str(path[0]), "the averaged weights" if averaged else describe.tensors(len(keys))),
                    Evidence(name, "the weights as they were trained" if averaged else describe.tensors(len(same))),
                ],
                fixes=[
                    Fix(
                        title="To load the other set, put it where the first is, in a copy:",
                        kind=FixKind.FILE,
                        applicability=Applicability.UNSAFE,
                        code=snippets.take_entry(facts, name, str(path[0])),
                        edits=(MoveEntry((name,), (str(path[0]),)),),
                        allow="other-weights",
                    )
                ],
                subjects=[name],
            )
            return

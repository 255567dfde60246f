"""RL304."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import DropKeys
from relight.core.finding import Applicability, Finding, Fix, FixKind, Severity
from relight.core.target import Intent
from relight.facts import describe, snippets
from relight.facts.comparison import confidence, load_error, new_fit
from relight.facts.facts import Facts
from relight.facts.sized_arguments import as_many_blocks
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_TWO = {"layer1.weight": (3, 2), "layer1.bias": (3,), "layer2.weight": (1, 3), "layer2.bias": (1,)}
_THREE = {**_TWO, "layer3.weight": (5, 1), "layer3.bias": (5,)}


class LayerRemoved(Rule):
    """The checkpoint has layers that the model no longer has.

    What it checks
    --------------
    Keys of the file that the model has not, after every other reading (a wrapper, a rename, tied weights, buffers)
    was tried.

    Why loading fails
    -----------------
    ``load_state_dict(strict=True)`` takes no key that it has no place for: ``Unexpected key(s) in state_dict``.

    How to fix
    ----------
    If the layer was removed on purpose, leave its keys out of a copy, or load with ``strict=False``: the model then
    computes something else than the one that was trained. If not, put the layer back.

    References
    ----------
    torch/nn/modules/module.py, ``Module.load_state_dict``.
    """

    code = "RL304"
    name = "layer-removed"
    causes = ("layer-removed",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="one layer", file=File(tensors=_THREE), model=Model(params=_TWO)),
        Fires(
            name="the biases",
            file=File(tensors=_TWO),
            model=Model(params={k: s for k, s in _TWO.items() if k.endswith("weight")}),
        ),
        Silent(name="the same layers", file=File(tensors=_TWO), model=Model(params=_TWO)),
        Silent(name="one layer more in the model", file=File(tensors=_TWO), model=Model(params=_THREE)),
        Silent(name="not strict: the keys are left out, and nothing is missing", file=File(tensors=_THREE),
               model=Model(params=_TWO), intent=Intent(strict=False)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all of them."""
        if facts.attribution.unrelated or not facts.strict:
            return
        for e in facts.attribution.of("removed"):
            groups = e.about["groups"]
            diff = facts.keys
            alone = set(diff.unexpected) == set(e.unexpected) and not diff.missing and not diff.mismatched
            context = []
            if alone:
                context.append(f"The model gets all {describe.tensors(len(diff.matched))} that it has.")
            context += [describe.equal_blocks(*c, in_model=False) for c in e.about["equals"]]
            noun = "a layer" if len(groups) == 1 and next(iter(groups)) not in e.unexpected else "layers"
            if all(k in groups for k in e.unexpected):
                noun = "a tensor" if len(groups) == 1 else "tensors"
            fixes = [
                *as_many_blocks(facts, e),
                Fix(
                    title="It was removed on purpose: leave its keys out of a copy."
                    if len(groups) == 1
                    else "They were removed on purpose: leave their keys out of a copy.",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    code=snippets.drop_keys(facts, e.unexpected),
                    edits=(DropKeys(e.unexpected),),
                    allow="drop-layers",
                    note="The model then computes something else than the one that was trained.",
                ),
            ]
            if alone:
                fixes.append(
                    Fix(
                        title="Or load as it is; here strict=False hides nothing else:",
                        kind=FixKind.LOAD_ARGUMENT,
                        applicability=Applicability.UNSAFE,
                        code=snippets.load_loosely(facts),
                        note=new_fit(facts, "if the optimizer gets fewer").strip() or None,
                    )
                )
            yield self.finding(
                f"the checkpoint has {noun} that the model no longer has",
                severity=Severity.ERROR,
                confidence=confidence(facts, e),
                evidence=describe.groups(facts.spec, groups, in_model=False),
                context=context,
                fixes=fixes,
                subjects=e.unexpected,
                explains=e.keys,
                predicts=load_error(facts),
            )

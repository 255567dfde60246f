"""RL308."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.facts import snippets
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_OLD = {"a.weight_g": (4, 1), "a.weight_v": (4, 3)}
_NEW = {"a.parametrizations.weight.original0": (4, 1), "a.parametrizations.weight.original1": (4, 3)}
_PLAIN = {"a.weight": (4, 3)}
_WORDS = {
    "plain": "a plain weight",
    "old": "torch.nn.utils.weight_norm (weight_g, weight_v)",
    "new": "torch.nn.utils.parametrizations.weight_norm (original0, original1)",
}


class WeightNormForm(Rule):
    """A weight is stored in another form of weight_norm than the model uses.

    What it checks
    --------------
    The three forms of one weight: plain, magnitude and direction under the old names, and under the new ones.

    Why loading fails
    -----------------
    The old function registers ``weight_g`` and ``weight_v``, the new one ``parametrizations.weight.original0`` and
    ``original1``; without weight_norm there is one ``weight``. (From old to new torch converts by itself.)

    How to fix
    ----------
    Between old and new names only names change. From weight_norm to a plain weight it has to be computed once:
    ``g * v / |v|``.

    References
    ----------
    torch/nn/utils/weight_norm.py and torch/nn/utils/parametrizations.py.
    """

    code = "RL308"
    name = "weight-norm-form"
    causes = ("weight-norm-parametrizations",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="weight_norm was removed", file=File(tensors=_OLD), model=Model(params=_PLAIN)),
        Fires(name="new names, old model", file=File(tensors=_NEW), model=Model(params=_OLD)),
        Fires(name="weight_norm was added", file=File(tensors=_PLAIN), model=Model(params=_OLD)),
        Silent(name="the same form", file=File(tensors=_OLD), model=Model(params=_OLD)),
        Silent(name="no weight_norm", file=File(tensors=_PLAIN), model=Model(params=_PLAIN)),
        Silent(name="another shape", file=File(tensors=_OLD), model=Model(params={"a.weight": (9, 9)})),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all weights."""
        if not facts.strict:
            return
        found = facts.attribution.of("weight-norm")
        if not found:
            return
        first = found[0]
        saved, wanted = first.about["saved"], first.about["wanted"]
        pairs = [p for e in found for p in e.pairs]
        if pairs:
            fix = Fix(
                title="Rename the keys in a copy; no tensor changes:",
                kind=FixKind.FILE,
                applicability=Applicability.SAFE,
                code=snippets.rewrite_keys(facts, pairs),
            )
        else:
            fix = Fix(
                title=f"Build the model with {_WORDS[saved]}, load, and "
                + (
                    "then call torch.nn.utils.remove_weight_norm on the layer."
                    if saved == "old"
                    else "then apply weight_norm to the layer."
                    if saved == "plain"
                    else 'then call torch.nn.utils.parametrize.remove_parametrizations(layer, "weight").'
                ),
                kind=FixKind.CODE,
            )
        yield self.finding(
            f"{first.about['module']} is saved as {_WORDS[saved]}, the model has {_WORDS[wanted]}",
            confidence=confidence(facts, first),
            evidence=[
                Evidence(e.about["module"], f"{', '.join(e.unexpected)}  ->  {', '.join(e.missing)}") for e in found[:5]
            ],
            fixes=[fix],
            subjects=[k for e in found for k in e.unexpected],
            explains=frozenset(k for e in found for k in e.keys),
            predicts=load_error(facts),
        )

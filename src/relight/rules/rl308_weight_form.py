"""RL308."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from relight.core.edits import RenameKeys
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.facts import data, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_OLD = {"a.weight_g": (4, 1), "a.weight_v": (4, 3)}
_NEW = {"a.parametrizations.weight.original0": (4, 1), "a.parametrizations.weight.original1": (4, 3)}
_PLAIN = {"a.weight": (4, 3)}
_SPECTRAL = {"a.weight_orig": (4, 3), "a.weight_u": (4,), "a.weight_v": (3,)}
_SPECTRAL_NEW = {
    "a.parametrizations.weight.original": (4, 3),
    "a.parametrizations.weight.0._u": (4,),
    "a.parametrizations.weight.0._v": (3,),
}
_PRUNED = {"a.weight_orig": (4, 3), "a.weight_mask": (4, 3)}


class WeightForm(Rule):
    """A weight is stored in another form than the model uses: weight_norm, spectral_norm, pruning, or plain.

    What it checks
    --------------
    Whether one side has a parameter under its own name and the other in the parts that a reparametrisation makes of
    it, or both in different parts: ``weight_g`` and ``weight_v``, ``weight_orig`` with ``weight_u`` or
    ``weight_mask``, and everything below ``parametrizations``.

    Why loading fails
    -----------------
    A reparametrised weight is computed from its parts whenever it is used, and only the parts are in the state_dict.
    The names of the parts changed as well: ``weight_norm`` and ``spectral_norm`` of torch.nn.utils register others
    than those of torch.nn.utils.parametrizations. (From old to new torch converts by itself.)

    How to fix
    ----------
    Between old and new names only names change. To or from a plain weight it has to be computed once: build the model
    in the form of the file, load, then undo it or apply it.

    References
    ----------
    torch/nn/utils/weight_norm.py, spectral_norm.py, prune.py, parametrize.py and parametrizations.py.
    """

    code = "RL308"
    name = "weight-form"
    causes = ("weight-norm-parametrizations", "pruning-mask-keys")
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="weight_norm was removed", file=File(tensors=_OLD), model=Model(params=_PLAIN)),
        Fires(name="new names, old model", file=File(tensors=_NEW), model=Model(params=_OLD)),
        Fires(name="weight_norm was added", file=File(tensors=_PLAIN), model=Model(params=_OLD)),
        Fires(
            name="spectral_norm, new names, old model", file=File(tensors=_SPECTRAL_NEW), model=Model(params=_SPECTRAL)
        ),
        Fires(name="spectral_norm was removed", file=File(tensors=_SPECTRAL), model=Model(params=_PLAIN)),
        Fires(
            name="pruned, and never made permanent",
            file=File(tensors=_PRUNED),
            model=Model(params=_PLAIN),
            cause="pruning-mask-keys",
        ),
        Fires(
            name="any parametrization, with state of its own",
            file=File(tensors={"a.parametrizations.weight.original": (4, 3)}),
            model=Model(params=_PLAIN),
        ),
        Silent(name="pruned on both sides", file=File(tensors=_PRUNED), model=Model(params=_PRUNED)),
        Silent(
            name="a mask of its own beside the weight",
            file=File(tensors={**_PLAIN, "a.weight_mask": (4, 3)}),
            model=Model(params=_PLAIN),
        ),
        Silent(
            name="spectral_norm on a weight of another shape",
            file=File(tensors=_SPECTRAL),
            model=Model(params={"a.weight": (9, 3)}),
        ),
        Silent(name="the same form", file=File(tensors=_OLD), model=Model(params=_OLD)),
        Silent(name="no weight_norm", file=File(tensors=_PLAIN), model=Model(params=_PLAIN)),
        Silent(name="another shape", file=File(tensors=_OLD), model=Model(params={"a.weight": (9, 9)})),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all weights."""
        if not facts.strict:
            return
        forms = data.load("reparametrisations")["forms"]
        groups: dict[tuple[str, str], list[Explanation]] = defaultdict(list)
        for e in facts.attribution.of("form"):
            groups[(e.about["saved"], e.about["wanted"])].append(e)
        for (saved, wanted), found in groups.items():
            first = found[0]
            name = first.about["parameter"].rpartition(".")[2]
            pairs = [p for e in found for p in e.pairs]
            yield self.finding(
                f"{_which(found)} saved as {forms[saved]['label'].format(name=name)}, "
                f"the model has {forms[wanted]['label'].format(name=name)}",
                cause=first.cause,
                confidence=confidence(facts, first),
                evidence=[
                    Evidence(e.about["parameter"], f"{', '.join(e.unexpected)}  ->  {', '.join(e.missing)}")
                    for e in found[:5]
                ],
                fixes=[
                    Fix(
                        title="Rename the keys in a copy; no tensor changes:",
                        kind=FixKind.FILE,
                        applicability=Applicability.SAFE,
                        code=snippets.rewrite_keys(facts, pairs),
                        edits=(RenameKeys(tuple(pairs)),),
                    )
                    if pairs
                    else Fix(title=_remedy(forms[saved], forms[wanted], name), kind=FixKind.CODE)
                ],
                subjects=[k for e in found for k in e.unexpected],
                explains=frozenset(k for e in found for k in e.keys),
                predicts=load_error(facts),
            )


def _which(found: Sequence[Explanation]) -> str:
    name = found[0].about["parameter"]
    return f"{name} is" if len(found) == 1 else f"{name} and {len(found) - 1} more are"


def _remedy(saved: dict[str, str], wanted: dict[str, str], name: str) -> str:
    steps = [step for step in (saved.get("undo"), wanted.get("redo")) if step]
    built = saved["label"].format(name=name)
    return f"Build the model with {built}, load, and then call " + ", then ".join(steps) + " on every such layer."

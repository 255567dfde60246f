"""RL308."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from relight.core.edits import ComputeTensors, Edit, RenameKeys
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.facts import data, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_OLD = {"a.weight_g": (4, 1), "a.weight_v": (4, 3)}
_NEW = {"a.parametrizations.weight.original0": (4, 1), "a.parametrizations.weight.original1": (4, 3)}
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
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
                    else Fix(title=_remedy(forms[saved], forms[wanted], name), kind=FixKind.CODE),
                    *_computed(facts, saved, wanted, found),
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


_NORMED = ("weight_norm_old", "weight_norm_new")


def _computed(facts: Facts, saved: str, wanted: str, found: Sequence[Explanation]) -> list[Fix]:
    """weight_norm's two parts made into the weight, or the weight into two parts."""
    shapes = {p.key: p.shape for p in facts.spec.params}
    types = {t.key: t.dtype for t in facts.checkpoint.tensors}
    fold = saved in _NORMED and wanted == "plain"
    if not fold and not (saved == "plain" and wanted in _NORMED):
        return []
    parts = [(e.unexpected if fold else e.missing, e.about["parameter"]) for e in found]
    if any(len(names) != 2 or types.get(names[0] if fold else p) not in _FLOATS for names, p in parts):
        return []
    if any(shapes.get(p if fold else names[0]) is None for names, p in parts):
        return []
    edits: list[Edit]
    if fold:
        edits = [ComputeTensors(tuple((p, names, "fold:0", shapes[p] or (), types[names[1]]) for names, p in parts))]
    else:
        edits = [
            RenameKeys(tuple((p, names[1]) for names, p in parts)),
            ComputeTensors(tuple((names[0], (p,), "norm:0", shapes[names[0]] or (), types[p]) for names, p in parts)),
        ]
    return [
        Fix(
            title="Or compute the weight from its two parts in a copy:"
            if fold
            else "Or split the weight into its magnitude and direction in a copy:",
            kind=FixKind.FILE,
            applicability=Applicability.UNSAFE,
            edits=tuple(edits),
            allow="fold-weights" if fold else "split-weights",
            note="Computed in double precision and rounded once: outputs may differ in the last digit. "
            "The optimizer's state is that of the old form: start a new fit.",
        )
    ]

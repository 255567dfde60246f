"""RL307."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import DropKeys
from relight.core.finding import Applicability, Finding, Fix, FixKind
from relight.core.finding import Evidence as Line
from relight.facts import describe, snippets
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_BN = {
    "bn.weight": (4,),
    "bn.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "bn.num_batches_tracked": (),
}
_GN = {"bn.weight": (4,), "bn.bias": (4,)}


class NormKindChanged(Rule):
    """A normalisation layer is of another kind than the one that was trained.

    What it checks
    --------------
    Running statistics that only one side has, where weight and bias of the same layer fit on both.

    Why loading fails
    -----------------
    BatchNorm saves running_mean and running_var, GroupNorm and LayerNorm do not. Weight and bias have the same
    shapes, so ``strict=False`` loads them into a layer that computes something else.

    How to fix
    ----------
    Use the kind of layer that was trained, or leave the statistics out and train again.

    References
    ----------
    torch/nn/modules/batchnorm.py, ``_NormBase``.
    """

    code = "RL307"
    name = "norm-kind-changed"
    causes = ("norm-kind-changed",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="batch norm became group norm", file=File(tensors=_BN), model=Model(params=_GN)),
        Fires(
            name="group norm became batch norm",
            file=File(tensors=_GN),
            model=Model(params=_BN, modules={"bn": "torch.nn.modules.batchnorm.BatchNorm2d"}),
        ),
        Silent(
            name="batch norm on both sides",
            file=File(tensors=_BN),
            model=Model(params=_BN, modules={"bn": "torch.nn.modules.batchnorm.BatchNorm2d"}),
        ),
        Silent(name="the whole layer is gone", file=File(tensors={**_BN, "a.weight": (1,)}),
               model=Model(params={"a.weight": (1,)})),
        Silent(name="no count of batches: torch fills it in", file=File(tensors={k: s for k, s in _BN.items() if "num" not in k}),
               model=Model(params=_BN, modules={"bn": "torch.nn.modules.batchnorm.BatchNorm2d"})),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all layers of one side."""
        if not facts.strict:
            return
        for e in facts.attribution.of("norm-kind"):
            modules = e.about["modules"]
            had = e.about["side"] == "file"
            keys = (*e.unexpected, *e.missing)
            fixes = [
                Fix(
                    title=f"Keep what was trained: make {describe.some(modules, 2)} a layer "
                    f"{'with running statistics (BatchNorm)' if had else 'without running statistics'} again.",
                    kind=FixKind.CODE,
                )
            ]
            if had:
                fixes.append(
                    Fix(
                        title="Or leave the statistics out of a copy, and train again:",
                        kind=FixKind.FILE,
                        applicability=Applicability.UNSAFE,
                        code=snippets.drop_keys(facts, e.unexpected),
                        edits=(DropKeys(e.unexpected),),
                        allow="drop-statistics",
                        note="Weight and bias fit by shape, but the model then computes something else.",
                    )
                )
            yield self.finding(
                "a normalisation layer is of another kind than the one that was trained"
                if len(modules) == 1
                else f"{len(modules)} normalisation layers are of another kind than those that were trained",
                confidence=confidence(facts, e),
                evidence=[
                    Line(
                        m,
                        f"saved {'with' if had else 'without'} running statistics, now {describe.module_text(facts.spec, m)}",
                        describe.where(facts.spec, m),
                    )
                    for m in modules[:5]
                ],
                fixes=fixes,
                subjects=keys,
                explains=e.keys,
                predicts=load_error(facts),
            )

"""RL907."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.manifest import listed
from relight.core.target import GroupSpec, Intent, IntentCall, OptimizerSpec, TrainingSpec
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, manifest

_RESUME = Intent(call=IntentCall.RESUME)
_TWO = {"a.weight": (2, 2), "b.weight": (2, 2)}
_ADAM = TrainingSpec(
    optimizers=(
        OptimizerSpec("torch.optim.adam.Adam", (GroupSpec(("a.weight", "b.weight"), {"lr": 0.1}, ("betas",)),)),
    )
)
_SWAPPED = {"b.weight": (2, 2), "a.weight": (2, 2)}


class OptimizerOrder(Rule):
    """Resuming gives the optimizer's state of one parameter to another one: their order has changed.

    What it checks
    --------------
    Where an optimizer was made of all parameters in the order of the model, as by ``self.parameters()``: whether the model
    of today has the same parameters in the same order. It is asked for a resume only, and where nobody could ask
    configure_optimizers: what that makes need not follow the model, and ``optimizer-differs`` compares it itself.

    Why loading fails
    -----------------
    It does not where shapes agree: optimizers keep their state by position, not by name. Where shapes differ, the first
    step raises.

    How to fix
    ----------
    Define the modules in the order of then, or resume without the optimizer's state.

    References
    ----------
    torch/optim/optimizer.py, ``load_state_dict``: states are matched by position.
    """

    code = "RL907"
    name = "optimizer-order"
    causes = ("silent-optimizer-order",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="two layers changed places",
            file=File(tensors=_TWO, extra=manifest(parameters=["a.weight", "b.weight"])),
            model=Model(params=_SWAPPED),
            intent=_RESUME,
            oracle=False,
        ),
        Silent(
            name="the same order",
            file=File(tensors=_TWO, extra=manifest(parameters=["a.weight", "b.weight"])),
            model=Model(params=_TWO),
            intent=_RESUME,
        ),
        Silent(
            name="two layers changed places, for a load",
            file=File(tensors=_TWO, extra=manifest(parameters=["a.weight", "b.weight"])),
            model=Model(params=_SWAPPED),
        ),
        Silent(
            name="two layers changed places, and the optimizer of today has the order of then",
            file=File(tensors=_TWO, extra=manifest(parameters=["a.weight", "b.weight"])),
            model=Model(params=_SWAPPED, training=_ADAM),
            intent=_RESUME,
        ),
        Silent(
            name="an optimizer with an order of its own",
            file=File(tensors=_TWO, extra=manifest(parameters=["a.weight", "b.weight"], groups=[[[1, 1], [0, 0]]])),
            model=Model(params=_SWAPPED),
            intent=_RESUME,
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for the first optimizer that takes the model's own order."""
        known = facts.spec.training is not None and not facts.spec.training.unknown
        if facts.intent.call is not IntentCall.RESUME or known:
            return
        training = facts.manifest.part("training")
        before = [str(n) for n in listed(training.get("parameters"))]
        now: list[str] = []
        tied: set[str] = set()
        for p in facts.spec.params:  # a tensor under two names is one parameter, under the first of them
            if p.kind == "parameter" and p.key not in tied:
                now.append(p.key)
                tied.update(p.tied_with)
        if before == now or sorted(before) != sorted(now) or not _in_order(training.get("optimizers"), len(before)):
            return
        moved = [(a, b) for a, b in zip(before, now, strict=True) if a != b]
        shapes = {p.key: p.shape for p in facts.spec.params}
        silent = all(shapes.get(a) == shapes.get(b) for a, b in moved)
        yield self.finding(
            f"the optimizer's state of {len(moved)} parameters goes to other ones",
            confidence=Confidence.LIKELY,
            evidence=[Evidence(f"state of {a}", f"goes to {b}") for a, b in moved[:5]],
            context=[
                "Optimizers keep their state by position. Names and shapes of weights agree; "
                + (
                    "the shapes of these do, too, so nothing raises."
                    if silent
                    else "the first step raises for those whose shapes differ."
                )
            ],
            fixes=[Fix(title="Define the modules in the order in which they were saved.", kind=FixKind.CODE)],
            subjects=[a for a, _ in moved],
            wrong=True,
        )


def _in_order(optimizers: object, count: int) -> bool:
    """Whether an optimizer has all parameters, in the order of the model, in one group."""
    for optimizer in optimizers if isinstance(optimizers, list) else ():
        groups = optimizer.get("groups") if isinstance(optimizer, dict) else None
        one = groups[0] if isinstance(groups, list) and len(groups) == 1 else None
        if isinstance(one, dict) and one.get("parameters") == [[0, count - 1]]:
            return True
    return False

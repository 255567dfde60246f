"""RL910."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts import changed
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, make, manifest

_LINEAR = "torch.nn.modules.linear.Linear"
_TWO = {"a.weight": (2, 2), "b.weight": (2, 2)}
_MODULES = {"a": _LINEAR, "b": _LINEAR}
_TIED = make(_MODULES, tied=[["a.weight", "b.weight"]])
_APART = make(_MODULES)


class TiesChanged(Rule):
    """Parameters that were one tensor when the model was saved are several now, or the other way round.

    What it checks
    --------------
    The names that share a tensor in the manifest against those that share one today, where all keys agree. A key that is
    missing because of it, and values that overwrite each other, are told by tied-key and tied-conflict.

    Why loading fails
    -----------------
    It does not: a state_dict lists a shared tensor under each of its names. The answers are the same; further training is
    not, and an optimizer has another number of parameters.

    How to fix
    ----------
    Tie them as they were, in the constructor.

    References
    ----------
    torch/nn/modules/module.py: ``parameters`` passes over a tensor that it has met, ``state_dict`` does not.
    """

    code = "RL910"
    name = "ties-changed"
    causes = ("activation-changed",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="two tensors that were one, for a resume",
            file=File(tensors=_TWO, extra=manifest(_TIED)),
            model=Model(params=_TWO, architecture=_APART),
            intent=Intent(call=IntentCall.RESUME),
            oracle=False,
        ),
        Fires(
            name="one tensor that was two",
            file=File(tensors=_TWO, extra=manifest(_APART)),
            model=Model(params=_TWO, architecture=_TIED),
            oracle=False,
        ),
        Silent(
            name="as they were, in another order",
            file=File(tensors=_TWO, extra=manifest(_TIED)),
            model=Model(params=_TWO, architecture=make(_MODULES, tied=[["b.weight", "a.weight"]])),
        ),
        Silent(
            name="a name of the three is gone",
            file=File(tensors=_TWO, extra=manifest(make(_MODULES, tied=[["a.weight", "b.weight", "c.weight"]]))),
            model=Model(params=_TWO, architecture=_TIED),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding; only training notices."""
        found = facts.changes.ties
        if not found:
            return
        verb, first = facts.manifest.verb, found[0]
        yield self.finding(
            f"parameters that were {'several tensors are one' if first.tied else 'one tensor are several'} now",
            confidence=Confidence.LIKELY,
            evidence=[
                Evidence(
                    " = ".join(c.names[:4]),
                    f"{verb} as {'several tensors, now one' if c.tied else 'one tensor, now several'}",
                )
                for c in found[:6]
            ],
            context=changed.context(
                facts, "A state_dict lists a shared tensor under each of its names.", training=True
            ),
            fixes=[
                Fix(
                    title=f"Leave {first.names[1]} a tensor of its own."
                    if first.tied
                    else f"Tie {first.names[1]} to {first.names[0]} in the constructor.",
                    kind=FixKind.CODE,
                ),
                changed.meant(facts, self.name),
            ],
            subjects=[n for c in found for n in c.names],
            wrong=changed.is_wrong(facts, training=True),
        )

"""RL901."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Finding, Fix, FixKind, Severity
from relight.facts import changed
from relight.facts.facts import Facts
from relight.facts.makes import Change
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, make, manifest

_NN = "torch.nn.modules."
_LINEAR = (f"{_NN}linear.Linear", {"in_features": "3", "out_features": "2"})


class ActivationChanged(Rule):
    """An activation is not the one that the model was trained with.

    What it checks
    --------------
    The activations that the manifest of the file lists, as modules and as functions in attributes, against those of the
    model of today. One under another name is the same one; one that forward does not look at is passed over.

    Why loading fails
    -----------------
    It does not: an activation has no weights, so no key is missing and no shape differs. The answers are others.

    How to fix
    ----------
    Put back the one that was trained. Where the change is meant, train on with it, and save again.

    References
    ----------
    torch/nn/modules/activation.py: none of the classes but PReLU and MultiheadAttention has parameters.
    """

    code = "RL901"
    name = "activation-changed"
    causes = ("activation-changed",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="ReLU became GELU",
            file=File(extra=manifest(make({"net": _LINEAR, "act": f"{_NN}activation.ReLU"}))),
            model=Model(architecture=make({"net": _LINEAR, "act": f"{_NN}activation.GELU"})),
            oracle=False,
        ),
        Fires(
            name="another function in an attribute",
            file=File(extra=manifest(make({"net": ("models.Block", {"act": "torch.nn.functional.relu"})}))),
            model=Model(architecture=make({"net": ("models.Block", {"act": "torch.gelu"})})),
            oracle=False,
        ),
        Silent(
            name="the same one under another name",
            file=File(extra=manifest(make({"net": _LINEAR, "act": f"{_NN}activation.ReLU"}))),
            model=Model(architecture=make({"net": _LINEAR, "relu": f"{_NN}activation.ReLU"})),
        ),
        Silent(
            name="the same one, computed in place",
            file=File(extra=manifest(make({"act": (f"{_NN}activation.ReLU", {"inplace": "False"})}))),
            model=Model(architecture=make({"act": (f"{_NN}activation.ReLU", {"inplace": "True"})})),
        ),
        Silent(name="no manifest", model=Model(architecture=make({"act": f"{_NN}activation.GELU"}))),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all of them."""
        found = [c for c in (*facts.changes.modules, *facts.changes.attributes) if c.activation]
        if not found:
            return
        yield self.finding(
            f"an activation is not the one it was {facts.manifest.trained} with"
            if len(found) == 1
            else f"{len(found)} activations are not those it was {facts.manifest.trained} with",
            confidence=changed.confidence(facts),
            evidence=changed.evidence(facts, found),
            context=changed.context(facts, "Neither has weights, so loading cannot notice."),
            fixes=[*(_put_back(c, facts.manifest.trained) for c in found[:1]), changed.meant(facts, self.name)],
            subjects=[c.label for c in found],
            wrong=changed.is_wrong(facts, training=False),
        )


def _put_back(change: Change, trained: str) -> Fix:
    name = change.path.rpartition(".")[2]
    saved = change.saved or ""
    place = f", in {change.line.replace(':', ' line ')}" if change.line else ""
    if change.name is None and name.isidentifier() and "..." not in saved:
        return Fix(title=f"To keep what was {trained}{place}:", kind=FixKind.CODE, code=f"self.{name} = nn.{saved}")
    return Fix(title=f"To keep what was {trained}, make {change.label} {saved} again{place}.", kind=FixKind.CODE)

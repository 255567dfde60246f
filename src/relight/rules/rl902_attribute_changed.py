"""RL902."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts import changed
from relight.facts.describe import some
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, make, manifest

_NORM = "torch.nn.modules.normalization.LayerNorm"
_DROP = "torch.nn.modules.dropout.Dropout"


class AttributeChanged(Rule):
    """An attribute that decides what a layer computes has another value than when the model was saved.

    What it checks
    --------------
    Attributes besides parameters, buffers and modules: eps, heads, stride, scale, flags, the settings that a module keeps.
    Of the user's own classes those that a forward looks at and that no method but the constructor sets. Sizes are left to
    the shapes; what has no effect, as ``inplace``, is passed over; what only training notices, as the rate of a dropout,
    is called so.

    Why loading fails
    -----------------
    It does not: attributes are not in the state_dict.

    How to fix
    ----------
    Set the value that the model was trained with.

    References
    ----------
    torch/nn/modules/module.py: ``state_dict`` holds parameters and persistent buffers.
    """

    code = "RL902"
    name = "attribute-changed"
    causes = ("activation-changed",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="another eps",
            file=File(extra=manifest(make({"norm": (_NORM, {"eps": "1e-05"})}))),
            model=Model(architecture=make({"norm": (_NORM, {"eps": "1e-12"})})),
            oracle=False,
        ),
        Fires(
            name="another number of heads in a class of the user's",
            file=File(extra=manifest(make({"attn": ("models.Attention", {"heads": "4"})}))),
            model=Model(architecture=make({"attn": ("models.Attention", {"heads": "8"})})),
            oracle=False,
        ),
        Fires(
            name="another dropout, for a resume",
            file=File(extra=manifest(make({"drop": (_DROP, {"p": "0.1"})}))),
            model=Model(architecture=make({"drop": (_DROP, {"p": "0.5"})})),
            intent=Intent(call=IntentCall.RESUME),
            oracle=False,
        ),
        Silent(
            name="the same number, written differently",
            file=File(extra=manifest(make({"norm": (_NORM, {"eps": "1"})}))),
            model=Model(architecture=make({"norm": (_NORM, {"eps": "1.0"})})),
        ),
        Silent(
            name="an attribute that only one side has",
            file=File(extra=manifest(make({"norm": (_NORM, {})}))),
            model=Model(architecture=make({"norm": (_NORM, {"new_flag": "True"})})),
        ),
        Silent(
            name="a size, which shapes compare",
            file=File(extra=manifest(make({"net": ("torch.nn.modules.linear.Linear", {"in_features": "3"})}))),
            model=Model(architecture=make({"net": ("torch.nn.modules.linear.Linear", {"in_features": "4"})})),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for what every answer notices, one for what only training does."""
        found = [c for c in facts.changes.attributes if not c.activation]
        for training in (False, True):
            part = [c for c in found if c.only_training is training]
            if not part:
                continue
            names = list(dict.fromkeys(str(c.name) for c in part))
            yield self.finding(
                f"{some(names, 3)} {'is' if len(names) == 1 else 'are'} not what the model was {facts.manifest.verb} with",
                confidence=changed.confidence(facts),
                evidence=changed.evidence(facts, part),
                context=changed.context(
                    facts, "Attributes are not in the state_dict, so loading cannot notice.", training=training
                ),
                fixes=[
                    Fix(
                        title=f"To keep what was {facts.manifest.trained}, set {part[0].label} to {part[0].saved} again"
                        + (f" ({part[0].line})." if part[0].line else "."),
                        kind=FixKind.CODE,
                    ),
                    changed.meant(facts, self.name),
                ],
                subjects=[c.label for c in part],
                wrong=changed.is_wrong(facts, training=training),
            )

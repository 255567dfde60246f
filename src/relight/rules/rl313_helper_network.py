"""RL313."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import DropKeys
from relight.core.finding import Applicability, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import describe, snippets
from relight.facts.comparison import confidence, hides, load_error, new_fit, severity
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_NET = {"net.weight": (2, 3), "net.bias": (2,)}
_LPIPS = {"lpips.net.0.weight": (4, 3), "lpips.net.2.weight": (5, 4)}
_DISC = {"discriminator.conv.weight": (4, 3), "discriminator.out.weight": (1, 4)}


class HelperNetwork(Rule):
    """A network that only training needs (perceptual loss, discriminator, teacher) is on one side only.

    What it checks
    --------------
    Whole networks of which the other side has nothing, under a name that such helpers go by: ``lpips``, ``vgg``,
    ``inception``, ``discriminator``, ``teacher`` ...

    Why loading fails
    -----------------
    Frozen helpers are often left out when a checkpoint is saved, as their weights are public, and built again for
    training. ``strict=True`` wants them.

    How to fix
    ----------
    A frozen helper gets its weights where it is built: load with ``strict=False`` and see that nothing else is
    missing. One that was trained (a discriminator) cannot be had back; for inference it is not needed.

    References
    ----------
    CompVis/taming-transformers and CompVis/latent-diffusion (``LPIPSWithDiscriminator``); Lightning,
    ``LightningModule.strict_loading``.
    """

    code = "RL313"
    name = "helper-network"
    causes = ("perceptual-net-keys",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="a perceptual loss that was not saved",
            file=File(tensors=_NET),
            model=Model(params={**_NET, **_LPIPS}),
        ),
        Fires(
            name="a discriminator that the model for inference lacks",
            file=File(tensors={**_NET, **_DISC}),
            model=Model(params=_NET),
        ),
        Silent(name="on both sides", file=File(tensors={**_NET, **_DISC}), model=Model(params={**_NET, **_DISC})),
        Silent(name="part of it is in the file", file=File(tensors={**_NET, "lpips.net.0.weight": (4, 3)}),
               model=Model(params={**_NET, **_LPIPS})),
        Silent(name="a network of another name", file=File(tensors=_NET),
               model=Model(params={**_NET, "decoder.0.weight": (4, 3)})),
        Silent(name="not strict, and only the file has it", file=File(tensors={**_NET, **_DISC}),
               model=Model(params=_NET), intent=Intent(strict=False)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for each side."""
        for e in facts.attribution.of("helper"):
            if not facts.strict and not e.missing:
                continue
            in_file = e.about["side"] == "file"
            diff, keys = facts.keys, (*e.unexpected, *e.missing)
            alone = len(keys) == len(diff.missing) + len(diff.unexpected) and not diff.mismatched
            fixes = []
            if in_file:
                fixes.append(
                    Fix(
                        title="For inference it is not needed: leave it out of a copy.",
                        kind=FixKind.FILE,
                        applicability=Applicability.UNSAFE,
                        code=snippets.drop_keys(facts, keys),
                        edits=(DropKeys(tuple(keys)),),
                        allow="drop-helper",
                    )
                )
            elif facts.strict:
                fixes.append(
                    Fix(
                        title="Its weights come from where it is built (public ones): load without them.",
                        kind=FixKind.LOAD_ARGUMENT,
                        applicability=Applicability.UNSAFE,
                        code=snippets.load_loosely(facts),
                        note=hides(alone=alone) + new_fit(facts, "if the optimizer gets it"),
                    )
                )
            names = describe.some(e.about["groups"])
            yield self.finding(
                f"the {'checkpoint' if in_file else 'model'} has {names}, which only training needs, "
                f"the {'model' if in_file else 'checkpoint'} does not",
                severity=severity(facts, e),
                confidence=confidence(facts, e),
                evidence=describe.groups(facts.spec, e.about["groups"], in_model=not in_file),
                context=["That it is a helper is told by its name."],
                fixes=fixes,
                subjects=keys,
                explains=e.keys,
                predicts=load_error(facts),
                wrong=not facts.strict,
            )

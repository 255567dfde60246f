"""RL310."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind
from relight.facts import describe, snippets
from relight.facts.comparison import load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_SEQ = {"net": "torch.nn.modules.container.Sequential"}


class IndexShifted(Rule):
    """A layer was put into or taken out of a Sequential, which renumbers the layers behind it.

    What it checks
    --------------
    Whether all numbered layers of the file are found in the model's Sequential in the same order, with the same
    shapes, at other numbers.

    Why loading fails
    -----------------
    The keys of an nn.Sequential are positions. A dropout in the middle moves everything behind it; where a number
    still exists it now means another layer, and shapes disagree, or worse, agree.

    How to fix
    ----------
    Add the layer so that the numbers stay (at the end, or with names by an OrderedDict), or rename the keys.

    References
    ----------
    torch/nn/modules/container.py, ``Sequential``.
    """

    code = "RL310"
    name = "index-shifted"
    causes = ("sequential-index-shift",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="a dropout in the middle",
            file=File(tensors={"net.0.weight": (4, 3), "net.1.weight": (2, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (2, 4)}, modules=_SEQ),
        ),
        Fires(
            name="a layer inserted, numbers collide",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (4, 4), "net.4.weight": (1, 4)}, modules=_SEQ),
        ),
        Silent(
            name="the same numbers",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}, modules=_SEQ),
        ),
        Silent(
            name="a layer added at the end",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (1, 4), "net.4.weight": (5, 1)}, modules=_SEQ),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per Sequential."""
        if not facts.strict and not any(e.mismatched for e in facts.attribution.of("index-shift")):
            return
        for e in facts.attribution.of("index-shift"):
            container, moves = e.about["container"], e.about["moves"]
            new = e.about["new"]
            moved = ", ".join(f"{a} -> {b}" for a, b in moves[:6]) + (", ..." if len(moves) > 6 else "")
            evidence = [Evidence(container, f"positions {moved}", describe.where(facts.spec, container))]
            evidence += [
                Evidence(f"{container}.{i}", f"{describe.module_text(facts.spec, f'{container}.{i}')}, not in the file")
                for i in new[:3]
            ]
            yield self.finding(
                f"the layers of {container} are at other positions than in the checkpoint",
                confidence=Confidence.LIKELY,
                evidence=evidence,
                context=["Equal layers can be told apart by their order only: that the order is the same is a guess."],
                fixes=[
                    Fix(
                        title=f"Keep the positions of {container}: add new layers behind the old ones, or outside of it.",
                        kind=FixKind.CODE,
                    ),
                    *(
                        []
                        if new
                        else [
                            Fix(
                                title="If the order is the same, rename the keys in a copy; no tensor changes:",
                                kind=FixKind.FILE,
                                code=snippets.rewrite_keys(facts, e.pairs),
                            )
                        ]
                    ),
                ],
                subjects=[o for o, _ in e.pairs],
                explains=e.keys,
                predicts=load_error(facts),
            )

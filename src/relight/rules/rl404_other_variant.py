"""RL404."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind
from relight.facts import describe
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent


def _blocks(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    block = {"fc1": (4 * width, width), "fc2": (width, 4 * width)}
    stem: dict[str, tuple[int, ...]] = {"stem.weight": (width, 3)}
    return stem | {f"blocks.{i}.{name}.weight": shape for i in range(depth) for name, shape in block.items()}


class OtherVariant(Rule):
    """The checkpoint is of another variant of this architecture: other widths, and other layers or another depth.

    What it checks
    --------------
    Whether a third or more of the matrices that both sides have under equal names have other sizes, while whole
    layers are missing or left over.

    Why loading fails
    -----------------
    A base and a large transformer, a ResNet-34 and a ResNet-50 share most of their names. Hundreds of missing keys and
    of size mismatches have one cause: the model was built with another configuration.

    How to fix
    ----------
    Build the model in the variant of the file; the sizes in the finding say which. No tensor of the wrong variant can
    be made to fit without training.

    References
    ----------
    torch/nn/modules/module.py, ``Module.load_state_dict``.
    """

    code = "RL404"
    name = "other-variant"
    causes = ("size-mismatch-width-depth",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="narrower and less deep", file=File(tensors=_blocks(8, 2)), model=Model(params=_blocks(12, 4))),
        Fires(name="wider and deeper", file=File(tensors=_blocks(12, 4)), model=Model(params=_blocks(8, 2))),
        Fires(
            name="blocks of another kind",
            file=File(tensors={f"layer.{i}.conv{j}.weight": (8, 8, 3, 3) for i in range(3) for j in (1, 2)}),
            model=Model(
                params={
                    f"layer.{i}.conv{j}.weight": (8, 8, k, k) for i in range(3) for j, k in ((1, 1), (2, 3), (3, 1))
                }
            ),
        ),
        Silent(name="the same variant", file=File(tensors=_blocks(8, 2)), model=Model(params=_blocks(8, 2))),
        Silent(name="only deeper", file=File(tensors=_blocks(8, 2)), model=Model(params=_blocks(8, 4))),
        Silent(name="only wider", file=File(tensors=_blocks(8, 2)), model=Model(params=_blocks(12, 2))),
        Silent(
            name="another head and one layer added",
            file=File(tensors={**_blocks(8, 2), "head.weight": (10, 8)}),
            model=Model(params={**_blocks(8, 2), "head.weight": (7, 8), "neck.weight": (5, 5)}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for everything that is left."""
        if facts.attribution.unrelated:
            return
        for e in facts.attribution.of("variant"):
            widths, counts = e.about["widths"], e.about["depths"]
            evidence = [
                Evidence(
                    f"{container or 'the model'}.*" if container else "blocks",
                    f"{saved} in the checkpoint, {wanted} in the model",
                    describe.where(facts.spec, container),
                )
                for container, saved, wanted in counts[:3]
            ]
            evidence += [
                Evidence(f"size {saved:,}", f"is {wanted:,} in the model, in {describe.tensors(n)}")
                for (saved, wanted), n in widths[:3]
            ]
            evidence += describe.shapes(facts.spec, e.mismatched[:1])
            yield self.finding(
                "the checkpoint is of another variant of this model",
                confidence=confidence(facts, e),
                evidence=evidence,
                context=[
                    f"{describe.tensors(e.about['fits'])} fit, {len(e.mismatched):,} have other shapes, "
                    f"{len(e.missing):,} are missing and {len(e.unexpected):,} left over: one cause for all.",
                ],
                fixes=[Fix(title="Build the model in the variant of the file, with its sizes.", kind=FixKind.CODE)],
                subjects=[m.key for m in e.mismatched],
                explains=e.keys,
                predicts=load_error(facts),
            )

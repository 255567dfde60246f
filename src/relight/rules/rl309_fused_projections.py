"""RL309."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relight.core.edits import ConvertTensors
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind
from relight.facts import projection_order, snippets
from relight.facts.comparison import load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_SPLIT = {"q.weight": (4, 4), "k.weight": (4, 4), "v.weight": (4, 4)}
_FUSED = {"qkv.weight": (12, 4)}
_ATTENTION = "torch.nn.modules.activation.MultiheadAttention"


class FusedProjections(Rule):
    """Query, key and value are one layer on one side and three on the other.

    What it checks
    --------------
    A tensor whose first dimension is the sum of those of its siblings named q, k, v (query, key, value, with or
    without ``proj``) on the other side.

    Why loading fails
    -----------------
    The numbers are the same, but the names are not, and neither are the shapes.

    How to fix
    ----------
    Concatenate or split along the first dimension, in the order query, key, value. That order is how almost all
    libraries do it, but no shape can prove it: compare an output before you rely on it. Where the class takes the
    fused output apart by name (``q, k, v = self.qkv(x).chunk(3, dim=-1)``), or is torch's own attention, its order is taken.

    References
    ----------
    torch/nn/modules/activation.py, ``MultiheadAttention`` (in_proj_weight is q, k, v); timm, ``Attention.qkv``.
    """

    code = "RL309"
    name = "fused-projections"
    causes = ("fused-vs-split-qkv", "mha-inproj-split")
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="three in the file, one in the model", file=File(tensors=_SPLIT), model=Model(params=_FUSED)),
        Fires(name="one in the file, three in the model", file=File(tensors=_FUSED), model=Model(params=_SPLIT)),
        Fires(
            name="MultiheadAttention's one parameter, three in the model",
            file=File(tensors={"attn.in_proj_weight": (12, 4)}),
            model=Model(
                params={"attn.q_proj.weight": (4, 4), "attn.k_proj.weight": (4, 4), "attn.v_proj.weight": (4, 4)}
            ),
            cause="mha-inproj-split",
        ),
        Fires(
            name="three in the file, torch's own attention in the model",
            file=File(
                tensors={
                    "attn.q_proj.weight": (4, 4),
                    "attn.k_proj.weight": (4, 4),
                    "attn.v_proj.weight": (4, 4),
                    "attn.out_proj.weight": (4, 4),
                }
            ),
            model=Model(
                params={"attn.in_proj_weight": (12, 4), "attn.out_proj.weight": (4, 4)}, modules={"attn": _ATTENTION}
            ),
            cause="mha-inproj-split",
        ),
        Silent(name="three on both sides", file=File(tensors=_SPLIT), model=Model(params=_SPLIT)),
        Silent(name="sizes that do not add up", file=File(tensors=_SPLIT), model=Model(params={"qkv.weight": (13, 4)})),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per direction."""
        if not facts.strict:
            return
        for e in facts.attribution.of("fused"):
            groups: dict[str, tuple[str, ...]] = e.about["groups"]
            fuse = e.about["direction"] == "fuse"
            whole, parts = next(iter(groups.items()))
            told = _told(facts, groups) if fuse else None
            if told is not None:
                groups = told
            yield self.finding(
                f"{', '.join(parts)} are {whole} in the model"
                if fuse
                else f"{whole} in the checkpoint is {', '.join(parts)} in the model",
                cause=e.cause,
                confidence=Confidence.LIKELY,
                evidence=[
                    Evidence(w, f"{'from' if fuse else 'into'} {', '.join(p)}") for w, p in list(groups.items())[:5]
                ],
                fixes=[
                    Fix(
                        title="Concatenate them in a copy, in the order in which the class takes them apart:"
                        if told
                        else f"{'Concatenate' if fuse else 'Split'} them in a copy, in the order query, key, value:",
                        kind=FixKind.FILE,
                        applicability=Applicability.SAFE if told else Applicability.MANUAL,
                        code=snippets.fuse(facts, groups) if fuse else snippets.split(facts, groups),
                        edits=(_conversion(facts, groups, fuse=fuse),),
                        allow=None if told else "guessed-order",
                        note=None if told else "The order is the usual one; compare an output before you rely on it.",
                    )
                ],
                subjects=e.unexpected,
                explains=e.keys,
                predicts=load_error(facts),
            )


def _told(facts: Facts, groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]] | None:
    """The groups with their parts in the order that the model's source states; None where it states none."""
    out = {}
    for whole, parts in groups.items():
        module = whole.rpartition(".")[0]
        named = {projection_order.role(p.rpartition(".")[0].rpartition(".")[2]): p for p in parts}
        order = ("q", "k", "v") if _is_attention(facts, whole) else projection_order.order(facts, module)
        if order is None or set(named) != set(order) or len(named) != len(parts):
            return None
        out[whole] = tuple(named[r] for r in order)
    return out


def _is_attention(facts: Facts, whole: str) -> bool:
    """Whether torch's own attention holds it, whose order is documented."""
    module, _, name = whole.rpartition(".")
    spec = facts.spec.module(module)
    return name in ("in_proj_weight", "in_proj_bias") and spec is not None and spec.class_path == _ATTENTION


def _conversion(facts: Facts, groups: Mapping[str, Sequence[str]], *, fuse: bool) -> ConvertTensors:
    """The same as an edit of the file."""
    shapes = {p.key: p.shape or () for p in facts.spec.params}
    if fuse:
        return ConvertTensors(tuple((w, tuple(parts), "concat:0", shapes[w]) for w, parts in groups.items()))
    pairs = []
    for whole, parts in groups.items():
        start = 0
        for part in parts:
            size = shapes[part][0]
            pairs.append((part, (whole,), f"slice:0:{start}:{start + size}", shapes[part]))
            start += size
    return ConvertTensors(tuple(pairs))

"""RL314."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import describe
from relight.facts.comparison import confidence, load_error, severity
from relight.facts.facts import Facts
from relight.facts.patterns import folded
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_NET = {"fc.weight": (8, 8), "fc.bias": (8,)}
_QAT = {
    **_NET,
    "fc.weight_fake_quant.scale": (1,),
    "fc.weight_fake_quant.zero_point": (1,),
    "fc.activation_post_process.min_val": (),
}
_FOUR_BIT = {"fc.weight": (32, 1), "fc.bias": (8,), "fc.weight.absmax": (1,), "fc.weight.quant_map": (16,)}
_GPTQ = {"fc.qweight": (1, 8), "fc.qzeros": (1, 1), "fc.scales": (1, 8), "fc.g_idx": (8,), "fc.bias": (8,)}


class QuantisedLayers(Rule):
    """Layers are quantised on one side only.

    What it checks
    --------------
    What quantisation stores beside a weight or in its place: observers and fake quantisers of torch.ao, the state of
    bitsandbytes (``absmax``, ``quant_map``, ``SCB``), packed weights of GPTQ and AWQ (``qweight``, ``qzeros``).

    Why loading fails
    -----------------
    The quantised layer has other tensors than the plain one, and where a weight keeps its name it is packed: several
    values in a byte, in another shape.

    How to fix
    ----------
    Prepare or quantise the model as it was when the file was saved, then load. A packed weight cannot be read as a
    plain one; the library that packed it has a way to unpack it.

    References
    ----------
    torch/ao/quantization/quantize.py, ``prepare_qat``; bitsandbytes, functional.py, ``QuantState``; AutoGPTQ, qlinear.
    """

    code = "RL314"
    name = "quantised-layers"
    causes = ("qat-observer-keys", "bnb-packed-4bit")
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="saved during quantisation-aware training",
            file=File(tensors=_QAT),
            model=Model(params=_NET),
            cause="qat-observer-keys",
        ),
        Fires(
            name="the model is prepared, the file is plain",
            file=File(tensors=_NET),
            model=Model(params=_QAT),
            cause="qat-observer-keys",
        ),
        Fires(
            name="four bits packed, into a plain layer",
            file=File(tensors=_FOUR_BIT),
            model=Model(params=_NET),
            cause="bnb-packed-4bit",
        ),
        Fires(
            name="a packed weight under another name",
            file=File(tensors=_GPTQ),
            model=Model(params=_NET),
            cause="bnb-packed-4bit",
        ),
        Silent(name="quantised on both sides", file=File(tensors=_QAT), model=Model(params=_QAT)),
        Silent(name="a scale of the network's own", file=File(tensors={**_NET, "fc.scale": (1,)}),
               model=Model(params=_NET)),
        Silent(name="a weight of another shape", file=File(tensors=_NET),
               model=Model(params={"fc.weight": (4, 8), "fc.bias": (4,)})),
        Silent(name="not strict, and observers only in the file", file=File(tensors=_QAT), model=Model(params=_NET),
               intent=Intent(strict=False)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for each kind of quantisation."""
        for e in facts.attribution.of("quantised"):
            if not facts.strict and not (e.missing or e.mismatched):
                continue
            in_file = e.about["side"] == "file"
            keys = (*e.unexpected, *e.missing, *(m.key for m in e.mismatched))
            layers = e.about["layers"]
            evidence = [Evidence(p, describe.tensors(len(ks))) for p, ks in list(folded(keys).items())[:4]]
            evidence += describe.shapes(facts.spec, e.mismatched[:1])
            yield self.finding(
                f"{describe.counted(len(layers), 'layer')} {'is' if len(layers) == 1 else 'are'} quantised "
                f"in the {'checkpoint' if in_file else 'model'}, and not in the {'model' if in_file else 'checkpoint'}",
                cause=e.cause,
                severity=severity(facts, e),
                confidence=confidence(facts, e),
                evidence=evidence,
                context=[f"The names are those of {e.about['by']}."],
                fixes=[
                    Fix(
                        title="Quantise or prepare the model as it was for the file, before loading."
                        if in_file
                        else "Load into the plain model first, then quantise or prepare it.",
                        kind=FixKind.CODE,
                    )
                ],
                subjects=keys,
                explains=e.keys,
                predicts=load_error(facts),
                wrong=not facts.strict and not e.mismatched,
            )

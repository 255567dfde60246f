"""RL707."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relight.core.edits import ComputeTensors
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts import conversions, describe
from relight.facts.conversions import Loss
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, Tensor

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


class ValuesConverted(Rule):
    """Loading converts values to a type that cannot hold all of them, without a word.

    What it checks
    --------------
    The element type of every tensor in the file against that of the model's tensor of the same name. Whether a value
    is really lost only the values say, which are not read; widening, as from float16 to float32, loses none.

    Why loading fails
    -----------------
    It does not. ``load_state_dict`` copies, and copying converts: complex numbers lose their imaginary part, floats
    in an integer buffer their digits after the point, large numbers become ``inf`` in a narrower type.

    How to fix
    ----------
    Give the model the file's type before loading, as with ``model.double()``, or pass ``assign=True`` to
    load_state_dict. Where the narrower type is meant there is nothing to do.

    References
    ----------
    torch/nn/modules/module.py, ``_load_from_state_dict``: ``param.copy_(input_param)``.
    """

    code = "RL707"
    name = "values-converted"
    causes = ("dtype-narrowing",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="float64 into float32",
            file=File(tensors={"net.weight": Tensor((2, 3), "float64"), "net.bias": Tensor((2,), "float64")}),
            model=Model(),
        ),
        Fires(
            name="complex numbers into real ones",
            file=File(tensors={"w": Tensor((2,), "complex64")}),
            model=Model(params={"w": (2,)}),
        ),
        Fires(
            name="floats into whole numbers",
            file=File(tensors={"w": Tensor((2,), "float32")}),
            model=Model(params={"w": (2,)}, buffers=("w",), dtypes={"w": "int64"}),
        ),
        Fires(
            name="float32 into float16, plain torch.load",
            file=File(tensors={"w": Tensor((2,), "float32")}),
            model=Model(params={"w": (2,)}, dtypes={"w": "float16"}),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Silent(name="the same type", model=Model()),
        Silent(
            name="float16 into float32",
            file=File(tensors={"net.weight": Tensor((2, 3), "float16"), "net.bias": Tensor((2,), "bfloat16")}),
            model=Model(),
        ),
        Silent(
            name="a counter of another width",
            file=File(tensors={"n": Tensor((), "int32")}),
            model=Model(params={"n": ()}, buffers=("n",), dtypes={"n": "int64"}),
        ),
        Silent(
            name="another shape: nothing is copied",
            file=File(tensors={"w": Tensor((3,), "float64")}),
            model=Model(params={"w": (2,)}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all conversions that can lose something, the worst of them in the message."""
        found = [c for c in conversions.conversions(facts.checkpoint, facts.spec) if c.loss is not Loss.NONE]
        if not found:
            return
        found.sort(key=lambda c: c.loss, reverse=True)
        worst = found[0]
        count = sum(len(c.keys) for c in found)
        yield self.finding(
            f"{describe.tensors(count)}: values are converted from {worst.saved} to {worst.wanted}, {_lost(worst)}",
            confidence=Confidence.CERTAIN if worst.loss is Loss.IMAGINARY else Confidence.LIKELY,
            evidence=[Evidence(f"{c.saved} to {c.wanted}", describe.some(c.keys)) for c in found[:5]],
            context=["Nothing is said about it while loading. Whether a value is really lost only the values tell."],
            fixes=[*_fixes(facts, worst), *_converted(facts, found)],
            subjects=[k for c in found for k in c.keys],
            wrong=worst.loss is Loss.IMAGINARY,
        )


def _converted(facts: Facts, found: Sequence[conversions.Conversion]) -> list[Fix]:
    """The same conversion, made once and in the file: it takes less room, and says its type itself."""
    if any({c.saved, c.wanted} - _FLOATS for c in found):
        return []
    shapes = {t.key: t.shape for t in facts.checkpoint.tensors}
    return [
        Fix(
            title=f"It is meant: convert them to {found[0].wanted} in a copy:",
            kind=FixKind.FILE,
            applicability=Applicability.UNSAFE,
            edits=(ComputeTensors(tuple((k, (k,), "cast", shapes[k], c.wanted) for c in found for k in c.keys)),),
            allow="cast",
            note="What the narrower type cannot hold is only in the old file.",
        )
    ]


def _lost(conversion: conversions.Conversion) -> str:
    return {
        Loss.IMAGINARY: "which drops the imaginary parts",
        Loss.FRACTION: "which drops what is after the point",
        Loss.RANGE: "which loses digits, and makes large values inf",
        Loss.DIGITS: "which loses digits",
        Loss.NONE: "",
    }[conversion.loss]


def _fixes(facts: Facts, worst: conversions.Conversion) -> list[Fix]:
    if facts.checkpoint.state_dict_path is None:
        return []
    safe = facts.blocked is None
    load = facts.question.torch_load(map_location="cpu", weights_only=safe)
    inside = "".join(f'["{step}"]' for step in facts.checkpoint.state_dict_path)
    name = facts.question.class_name or "MyModel"
    return [
        Fix(
            title=f"To keep what was saved, let the model take the file's tensors as they are, in {worst.saved}:",
            kind=FixKind.CODE,
            applicability=Applicability.SAFE,
            code="import torch\n"
            f"model = {name}()  # with the arguments of the training\n"
            f"model.load_state_dict({load}{inside}, assign=True)",
            note=f"Meant to be {worst.wanted}? Then there is nothing to do.",
        )
    ]

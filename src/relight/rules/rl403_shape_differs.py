"""RL403."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.core.target import InitParam
from relight.facts import describe, resizing
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.facts.sized_arguments import sized_arguments
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_KINDS = {
    "positions": ("a position table has another length", "Build the model with the length of the file."),
    "kernel": ("a convolution has another kernel size", "Build the model with the kernel size of the file."),
    "channels": (
        "a layer takes another number of inputs",
        "Build the model with the number of inputs of the file.",
    ),
    "transposed": (
        "a weight is laid out otherwise: transposed, or with dimensions of size one",
        "The numbers are the same: transpose or reshape them in a copy, once you know which layout is meant.",
    ),
}


class ShapeDiffers(Rule):
    """Tensors have other shapes than the model wants.

    What it checks
    --------------
    All shapes that disagree and that are neither an output layer nor a vocabulary, sorted by what differs: a width
    that runs through the model, a kernel, input channels, a position table, the layout.

    Why loading fails
    -----------------
    ``size mismatch``: shapes are compared whatever ``strict`` is, so ``strict=False`` does not help.

    How to fix
    ----------
    Build the model as it was built for training. The hyper_parameters in the file say how, where they were saved.

    References
    ----------
    torch/nn/modules/module.py, ``Module._load_from_state_dict``.
    """

    code = "RL403"
    name = "shape-differs"
    causes = (
        "size-mismatch-width-depth",
        "size-mismatch-pos-embed",
        "size-mismatch-kernel",
        "size-mismatch-in-channels",
        "conv1x1-vs-linear",
    )
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="another width",
            file=File(tensors={"a.weight": (16, 8), "a.bias": (16,), "b.weight": (1, 16)}),
            model=Model(params={"a.weight": (32, 8), "a.bias": (32,), "b.weight": (1, 32)}),
            cause="size-mismatch-width-depth",
        ),
        Fires(
            name="another width, which is a default of the class",
            file=File(tensors={"a.weight": (16, 8), "up.weight": (64, 16), "b.weight": (1, 16)}),
            model=Model(
                params={"a.weight": (32, 8), "up.weight": (128, 32), "b.weight": (1, 32)},
                init=(InitParam("dropout", False, "0.5"), InitParam("width", False, "32")),
            ),
            cause="size-mismatch-width-depth",
        ),
        Fires(
            name="another kernel",
            file=File(tensors={"stem.weight": (8, 3, 3, 3), "b.weight": (1, 8)}),
            model=Model(params={"stem.weight": (8, 3, 5, 5), "b.weight": (1, 8)}),
            cause="size-mismatch-kernel",
        ),
        Fires(
            name="grey images in place of coloured ones",
            file=File(tensors={"stem.weight": (8, 3, 3, 3), "b.weight": (1, 8)}),
            model=Model(params={"stem.weight": (8, 1, 3, 3), "b.weight": (1, 8)}),
            cause="size-mismatch-in-channels",
        ),
        Fires(
            name="a longer position table",
            file=File(tensors={"pos_embed": (1, 5, 8), "b.weight": (1, 8)}),
            model=Model(params={"pos_embed": (1, 9, 8), "b.weight": (1, 8)}),
            cause="size-mismatch-pos-embed",
        ),
        Fires(
            name="a linear layer that was a convolution",
            file=File(tensors={"fc.weight": (10, 8, 1, 1)}),
            model=Model(params={"fc.weight": (10, 8)}),
            cause="conv1x1-vs-linear",
        ),
        Silent(name="the same shapes"),
        Silent(name="a one-element vector into a scalar, which torch takes", file=File(tensors={"scale": (1,)}),
               model=Model(params={"scale": ()})),
        Silent(name="only the number of classes", file=File(tensors={"a.weight": (8, 8), "b.weight": (3, 8), "fc.weight": (10, 3)}),
               model=Model(params={"a.weight": (8, 8), "b.weight": (3, 8), "fc.weight": (7, 3)})),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per kind of difference."""
        if facts.attribution.unrelated:
            return
        for e in facts.attribution.of("positions", "kernel", "channels", "transposed", "size"):
            message, remedy = _KINDS.get(e.kind, ("", ""))
            if e.kind == "size":
                message, remedy = _width(e), "Build the model with the sizes of the file."
            yield self.finding(
                message,
                cause=e.cause,
                confidence=confidence(facts, e),
                evidence=_evidence(facts, e),
                context=[
                    *_silent(e),
                    describe.others_fit(len(facts.keys.matched))
                    + "strict=False does not help: shapes are always compared.",
                ],
                fixes=[_argument(facts, e, remedy) or Fix(title=remedy, kind=FixKind.CODE), *_in_the_file(facts, e)],
                subjects=[m.key for m in e.mismatched],
                explains=e.keys,
                predicts=load_error(facts),
            )


def _in_the_file(facts: Facts, e: Explanation) -> list[Fix]:
    """What can be done to the file: another layout of the same numbers, another length of a position table."""
    if any(t.layout != "strided" for t in facts.checkpoint.tensors if t.key in e.keys):
        return []
    if e.kind == "transposed":
        edit, turned = resizing.relaid(facts.checkpoint, e.mismatched, e.about.get("silent", ()))
        return [
            Fix(
                title="If they are turned, turn them back in a copy; no value changes:"
                if turned
                else "Give them the model's shape in a copy; no value changes:",
                kind=FixKind.FILE,
                applicability=Applicability.MANUAL if turned else Applicability.SAFE,
                edits=(edit,),
                allow="turned-weights" if turned else None,
                note="Shapes cannot prove it: compare an output before you rely on it." if turned else None,
            )
        ]
    if e.kind == "positions":
        found = resizing.positions(facts.checkpoint, e.mismatched)
        if found is not None:
            edit_, squares = found
            how = "interpolated as a square" if squares else "the first positions stay, further ones are their mean"
            return [
                Fix(
                    title=f"Or give the table the model's length in a copy ({how}):",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    edits=(edit_,),
                    allow="resize-positions",
                    note="Fine-tune afterwards: no position means quite what it meant.",
                )
            ]
    return []


def _silent(e: Explanation) -> list[str]:
    squares = e.about.get("silent", ())
    if not squares:
        return []
    return [
        f"{describe.some(squares, 1)} would load without an error, and wrong: "
        "square weights that are turned like those beside them."
    ]


def _dimensions(e: Explanation) -> Counter[tuple[int, int]]:
    return Counter(
        (a, b)
        for m in e.mismatched
        for a, b in zip(m.saved, m.wanted, strict=False)
        if a != b and len(m.saved) == len(m.wanted)
    )


def _width(e: Explanation) -> str:
    common = _dimensions(e).most_common(1)
    if len(common) == 1 and common[0][1] >= 2:
        (saved, wanted), _ = common[0]
        return f"a size that is {saved:,} in the checkpoint is {wanted:,} in the model"
    return f"{describe.tensors(len(e.mismatched))} {'has' if len(e.mismatched) == 1 else 'have'} another shape than in the model"


def _evidence(facts: Facts, e: Explanation) -> list[Evidence]:
    lines = list(describe.shapes(facts.spec, e.mismatched[:3]))
    if len(e.mismatched) > 3:
        lines.append(Evidence("...", f"{len(e.mismatched) - 3} more"))
    return lines


def _argument(facts: Facts, e: Explanation, remedy: str) -> Fix | None:
    """The arguments that would give the model the sizes that the file has."""
    if e.kind not in ("size", "positions", "channels"):
        return None
    sizes = {saved for saved, _ in _dimensions(e)}
    saved_too = [
        (n, v)
        for n, v in facts.lightning.hyper_parameters
        if type(v) is int and v in sizes and n in facts.question.init and n in _names(facts)
    ]
    if len(saved_too) == 1 and facts.calls_lightning:
        name, value = saved_too[0]
        return Fix(
            title=f"The file was trained with {name}={value}; it is overridden here. Load without that, or with:",
            kind=FixKind.LOAD_ARGUMENT,
            code=facts.question.load_call(**{name: value}),
        )
    values = sized_arguments(facts, e.mismatched)
    if not values:
        return None
    told = describe.listed([f"{n}={v}" for n, v in values.items()])
    return Fix(
        title=f"{remedy} As far as the numbers show, {told} gives {'it' if e.kind != 'size' else 'them'}:",
        kind=FixKind.LOAD_ARGUMENT,
        code=facts.question.load_call(**values),
    )


def _names(facts: Facts) -> tuple[str, ...]:
    return () if facts.spec.init is None else facts.spec.init.names

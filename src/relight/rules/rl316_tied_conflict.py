"""RL316."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relight.core.edits import AddNames, DropKeys
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.facts import snippets
from relight.facts.describe import some, tensors
from relight.facts.facts import Facts
from relight.facts.ties import Overwritten
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, Tensor

_TIED = Model(
    params={"embed.weight": (4, 3), "decoder.weight": (4, 3)}, tied=(("embed.weight", "decoder.weight"),)
)  # fmt: skip


class TiedConflict(Rule):
    """The model keeps as one tensor what are two of different values in the file: one of them is lost.

    What it checks
    --------------
    Tensors whose names are one tensor in the model, value by value, up to the first 32 MB of each. Only a difference
    that was seen is reported; tensors of different types are not compared.

    Why loading fails
    -----------------
    It does not. ``load_state_dict`` copies one tensor after the other, in the order of the model's names; the second
    copy writes over the first.

    How to fix
    ----------
    Where the two were trained apart, do not tie them in the code. Where they were one and one copy is stale, write the
    right one under both names.

    References
    ----------
    torch/nn/modules/module.py, ``_load_from_state_dict``: ``param.copy_(input_param)``, for each name.
    """

    code = "RL316"
    name = "tied-conflict"
    causes = ("tied-conflict",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="two tensors of other values",
            file=File(tensors={"embed.weight": Tensor((4, 3)), "decoder.weight": Tensor((4, 3), fill=60)}),
            model=_TIED,
        ),
        Fires(
            name="two of three agree",
            file=File(tensors={"a": Tensor((2,), fill=60), "b": Tensor((2,)), "c": Tensor((2,))}),
            model=Model(params={"a": (2,), "b": (2,), "c": (2,)}, tied=(("a", "b", "c"),)),
        ),
        Silent(
            name="two copies of the same values",
            file=File(tensors={"embed.weight": Tensor((4, 3), fill=60), "decoder.weight": Tensor((4, 3), fill=60)}),
            model=_TIED,
        ),
        Silent(
            name="one tensor in the file, too",
            file=File(
                tensors={"embed.weight": Tensor((4, 3), storage="e"), "decoder.weight": Tensor((4, 3), storage="e")}
            ),
            model=_TIED,
        ),
        Silent(
            name="not tied in the model",
            file=File(tensors={"embed.weight": Tensor((4, 3)), "decoder.weight": Tensor((4, 3), fill=60)}),
            model=Model(params={"embed.weight": (4, 3), "decoder.weight": (4, 3)}),
        ),
        Silent(
            name="one of the names is not loaded",
            file=File(tensors={"embed.weight": Tensor((4, 3)), "other.weight": Tensor((4, 3), fill=60)}),
            model=_TIED,
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all of them."""
        found = facts.overwritten
        if not found:
            return
        lost, stays = found[0].key, found[0].by
        title = f"{lost} is overwritten by {stays}"
        if len(found) > 1:
            title = f"{tensors(len(found))} are overwritten by others, {lost} by {stays}"
        wanted = _under_all_names(found)
        right = f"{lost} is" if len({old for old, _ in wanted}) == 1 else "the first of each in the model are"
        yield self.finding(
            f"{title}: the model has one tensor for both",
            confidence=Confidence.LIKELY if facts.keys.uncertain else Confidence.CERTAIN,
            evidence=[Evidence(o.key, _difference(o.at, o.values, o.by)) for o in found[:5]],
            context=["Nothing is said about it while loading: each is copied, and the later copy stays."],
            fixes=[
                Fix(
                    title="They were trained apart: do not tie them in the model's code.",
                    kind=FixKind.CODE,
                    applicability=Applicability.UNSAFE,
                ),
                Fix(
                    title=f"They are one, and {right} right: write that under both names in a copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    code=snippets.add_names(facts, wanted),
                    edits=(DropKeys(tuple(n for _, n in wanted)), AddNames(wanted)),
                    allow="keep-overwritten",
                    note=f"The values of {some([n for _, n in wanted], 3)} are then lost.",
                ),
            ],
            subjects=[k for o in found for k in (o.key, o.by)],
            wrong=True,
        )


def _difference(at: int, values: tuple[str, str] | tuple[()], other: str) -> str:
    if not values:
        return f"differs from {other}, first at value {at:,}"
    return f"value {at:,} is {values[0]}, in {other} {values[1]}"


def _under_all_names(found: Sequence[Overwritten]) -> tuple[tuple[str, str], ...]:
    """(right, stale) pairs that make the first of the overwritten ones, in the model's order, the value of them all."""
    right: dict[str, str] = {}
    out: list[tuple[str, str]] = []
    for o in found:
        first = right.setdefault(o.by, o.key)
        out.append((first, o.by if first == o.key else o.key))
    return tuple(out)

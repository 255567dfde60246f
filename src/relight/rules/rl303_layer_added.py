"""RL303."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Finding, Fix, FixKind, Severity
from relight.core.target import Intent
from relight.facts import describe, new_layers, snippets
from relight.facts.comparison import confidence, hides, load_error, new_fit, severity
from relight.facts.facts import Facts
from relight.facts.sized_arguments import as_many_blocks
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_TWO = {"layer1.weight": (3, 2), "layer1.bias": (3,), "layer2.weight": (1, 3), "layer2.bias": (1,)}
_THREE = {**_TWO, "layer3.weight": (5, 1), "layer3.bias": (5,)}


class LayerAdded(Rule):
    """The model has layers that the checkpoint lacks.

    What it checks
    --------------
    Keys of the model that the file has not, after every other reading (a wrapper, a rename, tied weights, buffers of
    a library) was tried. They are grouped by the topmost module of which the file has nothing.

    Why loading fails
    -----------------
    ``load_state_dict(strict=True)`` wants every key: ``Missing key(s) in state_dict``.

    How to fix
    ----------
    If the layer is new, load with ``strict=False`` and train it: it starts with random values. What else
    ``strict=False`` would hide is said beside it. If it is a mistake, take the layer out of the code.

    References
    ----------
    torch/nn/modules/module.py, ``Module.load_state_dict``.
    """

    code = "RL303"
    name = "layer-added"
    causes = ("layer-added",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="one layer", file=File(tensors=_TWO), model=Model(params=_THREE)),
        Fires(
            name="layers of torch: first values can be put into a copy",
            file=File(tensors=_TWO),
            model=Model(
                params={**_TWO, "layer3.weight": (5, 1), "layer3.bias": (5,), "norm.weight": (5,), "norm.bias": (5,)},
                modules={
                    "layer3": "torch.nn.modules.linear.Linear",
                    "norm": "torch.nn.modules.normalization.LayerNorm",
                },
            ),
        ),
        Fires(
            name="a bias on an old layer",
            file=File(tensors={"layer1.weight": (3, 2)}),
            model=Model(params={"layer1.weight": (3, 2), "layer1.bias": (3,)}),
        ),
        Fires(
            name="one more of several equal blocks: which one is open",
            file=File(tensors={f"layers.{i}.weight": (4, 4) for i in range(3)}),
            model=Model(params={f"layers.{i}.weight": (4, 4) for i in range(4)}),
        ),
        Fires(
            name="not strict: loads, at random values",
            file=File(tensors=_TWO),
            model=Model(params=_THREE),
            intent=Intent(strict=False),
        ),
        Fires(
            name="the class itself is not strict: a note",
            file=File(tensors=_TWO),
            model=Model(params=_THREE, strict_loading=False),
        ),
        Silent(name="the same layers", file=File(tensors=_TWO), model=Model(params=_TWO)),
        Silent(
            name="as many equal blocks",
            file=File(tensors={f"layers.{i}.weight": (4, 4) for i in range(3)}),
            model=Model(params={f"layers.{i}.weight": (4, 4) for i in range(3)}),
        ),
        Silent(
            name="the layer is there, under another name",
            file=File(tensors={**_TWO, "tail.weight": (5, 1)}),
            model=Model(params={**_TWO, "end.weight": (5, 1)}),
        ),
        Silent(name="one layer less in the model", file=File(tensors=_THREE), model=Model(params=_TWO)),
        Silent(
            name="a lazy layer that takes its shape from the file",
            file=File(tensors=_TWO),
            model=Model(params={**_TWO, "layer2.weight": None}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all of them; what strict=False hides is computed, not assumed."""
        if facts.attribution.unrelated:
            return
        for e in facts.attribution.of("added"):
            groups = e.about["groups"]
            single = next(iter(groups)) if len(groups) == 1 else None
            line = describe.where(facts.spec, single) if single is not None else None
            diff = facts.keys
            total = len(diff.matched) + len(diff.mismatched) + len(diff.unexpected)
            alone = set(diff.missing) == set(e.missing) and not diff.unexpected and not diff.mismatched
            context = []
            if alone:
                context.append(
                    f"Everything else fits: {len(diff.matched)} of {describe.tensors(total)}, same names, same shapes."
                )
            context += [describe.equal_blocks(*c, in_model=True) for c in e.about["equals"]]
            what = single or "these layers"
            as_trained = as_many_blocks(facts, e)
            grade = severity(facts, e)
            if grade is Severity.WARNING and facts.intent.strict is None:
                # The class itself says strict_loading=False: its author expects files without these layers.
                grade = Severity.NOTE
            yield self.finding(
                _message(facts, single, e.missing, strict=facts.strict),
                severity=grade,
                confidence=confidence(facts, e),
                evidence=describe.groups(facts.spec, groups, in_model=True),
                context=context,
                fixes=[*as_trained, *_new(facts, what, alone=alone), *_begun(facts, e.missing), *_mistake(what, line)]
                if facts.strict
                else [],
                subjects=e.missing,
                explains=e.keys,
                predicts=load_error(facts),
                wrong=grade is Severity.WARNING,
            )


def _message(facts: Facts, single: str | None, keys: tuple[str, ...], *, strict: bool) -> str:
    tensor_only = single in keys
    noun = "a tensor" if tensor_only else "a layer" if single else "layers"
    verb = "lacks"
    if strict:
        return f"the model has {noun} that the checkpoint {verb}"
    return f"the model has {noun} that the checkpoint {verb}: not strict, {'it stays' if single else 'they stay'} at random values"


def _new(facts: Facts, what: str, *, alone: bool) -> list[Fix]:
    return [
        Fix(
            title=f"{what} is new, you will train it (it starts with random values):"
            if what != "these layers"
            else "They are new, you will train them (they start with random values):",
            kind=FixKind.LOAD_ARGUMENT,
            applicability=Applicability.UNSAFE,
            code=snippets.load_loosely(facts),
            note=hides(alone=alone) + new_fit(facts, f"if the optimizer gets {what}"),
        )
    ]


def _begun(facts: Facts, keys: tuple[str, ...]) -> list[Fix]:
    """First values in a copy, where the layers begin as torch's own do: a resume takes no strict=False."""
    made = new_layers.initial(facts.spec, keys)
    if made is None:
        return []
    return [
        Fix(
            title="Or put first values into a copy, as such layers of torch begin, for a strict load:",
            kind=FixKind.FILE,
            applicability=Applicability.UNSAFE,
            edits=(made,),
            allow="new-layers",
            note="Drawn as such layers draw theirs, the same each time; values that the model's own code sets are not known.",
        )
    ]


def _mistake(what: str, line: str | None) -> list[Fix]:
    # One of several numbered layers is made by a line that makes the others as well.
    if line is None or any(step.isdigit() for step in what.split(".")):
        return []
    file, _, number = line.rpartition(":")
    return [
        Fix(
            title=f"{what} is a mistake, or you want the model as it was trained: remove line {number} of {file}.",
            kind=FixKind.CODE,
            applicability=Applicability.MANUAL,
        )
    ]

"""RL401."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from relight.core.edits import ComputeTensors, DropKeys
from relight.core.finding import Applicability, Finding, Fix, FixKind
from relight.core.target import InitParam
from relight.facts import describe, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import can_resume, confidence, load_error
from relight.facts.facts import Facts
from relight.facts.keys import Mismatch
from relight.facts.sized_arguments import sized_arguments
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_BODY = {"stem.weight": (8, 3, 3, 3), "stem.bias": (8,), "block.weight": (8, 8, 3, 3), "block.bias": (8,)}


class HeadResized(Rule):
    """Only the output layer differs: another number of classes.

    What it checks
    --------------
    Shapes that disagree in their first dimension only, in layers behind which nothing follows that takes what they
    give out. Everything else fits.

    Why loading fails
    -----------------
    ``size mismatch``: shapes are compared whatever ``strict`` is, so ``strict=False`` does not help.

    How to fix
    ----------
    Build the model with the number of classes that the file has, or leave the head out of a copy and train a new
    one.

    References
    ----------
    torch/nn/modules/module.py, ``Module._load_from_state_dict``.
    """

    code = "RL401"
    name = "head-resized"
    causes = ("size-mismatch-head",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="ten classes in the file, seven in the model",
            file=File(tensors={**_BODY, "fc.weight": (10, 8), "fc.bias": (10,)}, hparams={"num_classes": 10}),
            model=Model(params={**_BODY, "fc.weight": (7, 8), "fc.bias": (7,)}, init=(InitParam("num_classes", False, "7"),)),
        ),
        Silent(
            name="the same head",
            file=File(tensors={**_BODY, "fc.weight": (10, 8)}),
            model=Model(params={**_BODY, "fc.weight": (10, 8)}),
        ),
        Silent(
            name="a hidden width",
            file=File(tensors={"a.weight": (16, 8), "a.bias": (16,), "b.weight": (1, 16)}),
            model=Model(params={"a.weight": (32, 8), "a.bias": (32,), "b.weight": (1, 32)}),
        ),
        Silent(
            name="a vocabulary",
            file=File(tensors={"tok.weight": (20, 8), "out.weight": (20, 8)}),
            model=Model(
                params={"tok.weight": (24, 8), "out.weight": (24, 8)},
                modules={"tok": "torch.nn.modules.sparse.Embedding"},
            ),
        ),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all output layers."""
        for e in facts.attribution.of("head"):
            first = e.mismatched[0]
            saved, wanted = first.saved[0], first.wanted[0]
            fixes = _rebuild(facts, e, saved)
            fixes.append(
                Fix(
                    title=f"{wanted} is right, you will train a new head: leave the old one out of a copy.",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    code=snippets.drop_keys(facts, [m.key for m in e.mismatched]),
                    edits=(DropKeys(tuple(m.key for m in e.mismatched)),),
                    allow="drop-head",
                    note=_then(facts),
                )
            )
            fixes.append(_new_head(facts, e.mismatched, wanted))
            yield self.finding(
                f"the output layer has {saved} outputs in the checkpoint and {wanted} in the model",
                confidence=confidence(facts, e),
                evidence=describe.shapes(facts.spec, e.mismatched[:4]),
                context=[
                    describe.others_fit(len(facts.keys.matched))
                    + "strict=False does not help: shapes are always compared."
                ],
                fixes=fixes,
                subjects=[m.key for m in e.mismatched],
                explains=e.keys,
                predicts=load_error(facts),
            )


def _new_head(facts: Facts, mismatched: Sequence[Mismatch], wanted: int) -> Fix:
    """A head of the model's size in the file, so that nobody who loads it has to say strict=False."""
    keys = tuple(m.key for m in mismatched)
    inputs = {m.key.rpartition(".")[0]: math.prod(m.wanted[1:]) for m in mismatched if len(m.wanted) > 1}
    types = {t.key: t.dtype for t in facts.checkpoint.tensors}
    new = tuple(
        (m.key, (), f"uniform:{inputs.get(m.key.rpartition('.')[0], m.wanted[0])}", m.wanted, types[m.key])
        for m in mismatched
    )
    return Fix(
        title=f"Or put a new head of {wanted} outputs into a copy, for a strict load:",
        kind=FixKind.FILE,
        applicability=Applicability.UNSAFE,
        edits=(DropKeys(keys), ComputeTensors(new)),
        allow="new-head",
        note="The old head is left out; the new one is drawn as nn.Linear draws its own, and knows nothing yet.",
    )


def _then(facts: Facts) -> str:
    """What to do with a copy without the head."""
    call = facts.question.load_call(facts.question.fixed_path(), strict=False)
    resume = " (start a new fit: the optimizer's state is that of the old head)" if can_resume(facts) else ""
    return f"Load the copy with strict=False{resume}: {call}"


def _rebuild(facts: Facts, e: Explanation, saved: int) -> list[Fix]:
    """The argument that sets the number of outputs, where the file's hyper_parameters name it."""
    names = [n for n, v in facts.lightning.hyper_parameters if v == saved and not isinstance(v, bool)]
    init = facts.spec.init
    taken = [n for n in names if init is None or n in init.names or init.var_keyword]
    # Without --init the saved value reached the constructor already: passing it again would change nothing.
    if len(taken) == 1 and facts.calls_lightning and taken[0] in facts.question.init:
        return [
            Fix(
                title=f"{saved} is right: load with the number that the file was trained with.",
                kind=FixKind.LOAD_ARGUMENT,
                applicability=Applicability.SAFE,
                code=facts.question.load_call(**{taken[0]: saved}),
            )
        ]
    sized = sized_arguments(facts, e.mismatched)
    if sized:
        return [
            Fix(
                title=f"{saved} is right: build the model with {saved} outputs.",
                kind=FixKind.LOAD_ARGUMENT,
                code=facts.question.load_call(**sized),
            )
        ]
    return [Fix(title=f"{saved} is right: build the model with {saved} outputs.", kind=FixKind.CODE)]

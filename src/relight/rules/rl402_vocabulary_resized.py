"""RL402."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relight.core.finding import Applicability, Finding, Fix, FixKind
from relight.facts import describe, resizing
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.facts.keys import Mismatch
from relight.facts.sized_arguments import sized_arguments
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_EMB = {"tok": "torch.nn.modules.sparse.Embedding"}


class VocabularyResized(Rule):
    """An embedding table has another number of rows: another vocabulary.

    What it checks
    --------------
    Embeddings whose shapes disagree in the number of rows, with the output layers that change with them.

    Why loading fails
    -----------------
    ``size mismatch``: shapes are compared whatever ``strict`` is.

    How to fix
    ----------
    Build the model with the vocabulary of the file, load, and resize afterwards: rows that both have keep their
    values.

    References
    ----------
    torch/nn/modules/module.py, ``Module._load_from_state_dict``.
    """

    code = "RL402"
    name = "vocabulary-resized"
    causes = ("size-mismatch-vocab",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="four tokens more",
            file=File(tensors={"tok.weight": (20, 8), "out.weight": (20, 8), "out.bias": (20,)}),
            model=Model(params={"tok.weight": (24, 8), "out.weight": (24, 8), "out.bias": (24,)}, modules=_EMB),
        ),
        Silent(
            name="the same vocabulary",
            file=File(tensors={"tok.weight": (20, 8)}),
            model=Model(params={"tok.weight": (20, 8)}, modules=_EMB),
        ),
        Silent(
            name="another width",
            file=File(tensors={"tok.weight": (20, 8)}),
            model=Model(params={"tok.weight": (20, 16)}, modules=_EMB),
        ),
        Silent(
            name="a linear layer",
            file=File(tensors={"fc.weight": (20, 8)}),
            model=Model(params={"fc.weight": (24, 8)}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for tables and what goes with them."""
        for e in facts.attribution.of("vocabulary"):
            first = e.mismatched[0]
            saved, wanted = first.saved[0], first.wanted[0]
            names = [n for n, v in facts.lightning.hyper_parameters if v == saved and not isinstance(v, bool)]
            fixes = []
            if len(names) == 1 and facts.calls_lightning and names[0] in facts.question.init:
                fixes.append(
                    Fix(
                        title="Load with the vocabulary of the file, and resize the tables afterwards:",
                        kind=FixKind.LOAD_ARGUMENT,
                        applicability=Applicability.SAFE,
                        code=facts.question.load_call(**{names[0]: saved}),
                    )
                )
            else:
                sized = sized_arguments(facts, e.mismatched)
                fixes.append(
                    Fix(
                        title=f"Build the model with {saved} rows, load, and resize the tables afterwards.",
                        kind=FixKind.LOAD_ARGUMENT if sized else FixKind.CODE,
                        code=facts.question.load_call(**sized) if sized else None,
                    )
                )
            fixes += _resized(facts, e.mismatched, saved, wanted)
            yield self.finding(
                f"the vocabulary has {saved:,} entries in the checkpoint and {wanted:,} in the model",
                confidence=confidence(facts, e),
                evidence=describe.shapes(facts.spec, e.mismatched[:4]),
                context=["strict=False does not help: shapes are always compared."],
                fixes=fixes,
                subjects=[m.key for m in e.mismatched],
                explains=e.keys,
                predicts=load_error(facts),
            )


def _resized(facts: Facts, mismatched: Sequence[Mismatch], saved: int, wanted: int) -> list[Fix]:
    """Tables of the model's size in the file: rows that both have keep their values."""
    grown = wanted > saved
    edit = resizing.rows(facts.checkpoint, mismatched)
    if edit is None or any(t.layout != "strided" for t in facts.checkpoint.tensors):
        return []
    rest = (
        f"the last {saved - wanted:,} are left out" if not grown else f"the {wanted - saved:,} new ones are their mean"
    )
    return [
        Fix(
            title=f"Or resize the tables in a copy: the first {min(saved, wanted):,} entries stay, {rest}:",
            kind=FixKind.FILE,
            applicability=Applicability.UNSAFE,
            edits=(edit,),
            allow="grow-vocabulary" if grown else "cut-vocabulary",
            note="Right only where the entries that both have mean the same, in the same order. "
            "The optimizer's state is that of the old tables: start a new fit.",
        )
    ]

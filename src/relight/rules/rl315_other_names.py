"""RL315."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relight.core.edits import ConvertTensors, DropKeys, Edit
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind
from relight.facts import describe, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.facts.mapper.learning import learn
from relight.facts.mapper.pairs import Pair
from relight.facts.mapper.rules import LEFT_OUT, fits, left, right
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_OURS = {"emb.weight": (12, 8), "head.weight": (3, 8)} | {
    f"blocks.{i}.{name}.weight": shape
    for i in range(3)
    for name, shape in (("q", (8, 8)), ("up", (32, 8)), ("down", (8, 32)))
}
_TURNED = {"wte.weight": (12, 8), "lm_head.weight": (3, 8)} | {
    f"h.{i}.{name}.weight": shape
    for i in range(3)
    for name, shape in (("query", (8, 8)), ("c_up", (8, 32)), ("c_down", (32, 8)))
}


_SHOWN = 8


class OtherNames(Rule):
    """The file is of this architecture, under the names and in the layout of another program.

    What it checks
    --------------
    Whether the key mapper finds where most tensors belong although many parts have other names, or tensors would have
    to be turned, cut or put together as well. A rename of a few parts is `renamed-module`.

    Why loading fails
    -----------------
    A state_dict knows tensors by name and shape. Two programs that build the same network seldom agree on either:
    one keeps query, key and value in one matrix, another stores weights with rows and columns exchanged.

    How to fix
    ----------
    Convert the file once, into a copy. ``relight map`` shows every pair, and saves rules that can be edited. A
    mapping between two programs is inferred from names and shapes: compare an output before you rely on it.

    References
    ----------
    transformers, ``pytorch_utils.Conv1D`` (weights turned); timm, ``checkpoint_filter_fn`` of its models.
    """

    code = "RL315"
    name = "other-names"
    causes = ("module-renamed",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="other names, and weights that are turned", file=File(tensors=_TURNED), model=Model(params=_OURS)),
        Silent(name="the same names", file=File(tensors=_OURS), model=Model(params=_OURS)),
        Silent(
            name="one part renamed",
            file=File(tensors={k.replace("blocks", "layers"): s for k, s in _OURS.items()}),
            model=Model(params=_OURS),
        ),
        Silent(
            name="another model",
            file=File(tensors={f"conv{i}.weight": (5 + i, 7) for i in range(8)}),
            model=Model(params=_OURS),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for the whole conversion."""
        if not facts.strict and not any(e.mismatched for e in facts.attribution.of("converted")):
            return
        for e in facts.attribution.of("converted"):
            pairs: tuple[Pair, ...] = e.about["pairs"]
            rules = _rules(facts, e.about["every"])
            evidence = [Evidence(what, describe.tensors(count)) for what, count in rules[:_SHOWN]]
            if len(rules) > _SHOWN:
                evidence.append(Evidence("...", f"{len(rules) - _SHOWN} more rules: relight map shows them"))
            yield self.finding(
                "the checkpoint is of this architecture, in the names of another program",
                confidence=Confidence.LIKELY if not e.certain else confidence(facts, e),
                evidence=evidence,
                context=_context(facts, e, pairs),
                fixes=[_fix(facts, pairs)],
                subjects=[s for p in pairs for s in p.source],
                explains=e.keys,
                predicts=load_error(facts),
            )


def _rules(facts: Facts, pairs: Sequence[Pair]) -> list[tuple[str, int]]:
    """The few rules that say all pairs, applied one after the other, and how many tensors each rewrites."""
    keys = [t.key for t in facts.checkpoint.tensors]
    taken = {p.target for p in pairs}
    others = [p.key for p in facts.spec.persistent if p.key not in taken]
    rules = [r for r in learn(pairs, keys, others) if r.op != LEFT_OUT]
    counts = fits(rules, keys, (*taken, *others))
    return [
        (f"{left(r)} -> {right(r)}" + ("" if r.op == "copy" else f"  [{r.op}]"), n)
        for r, n in zip(rules, counts, strict=True)
    ]


def _context(facts: Facts, e: Explanation, pairs: Sequence[Pair]) -> list[str]:
    guessed = sum(p.confidence != "certain" for p in pairs)
    fits = sum(k not in e.about["silent"] for k in facts.keys.matched)
    out = [
        f"{describe.tensors(len(pairs))} of the model {'has' if len(pairs) == 1 else 'have'} another name or layout"
        + (f", {fits:,} fit as they are" if fits else "")
        + (f"; {describe.counted(guessed, 'pair')} told by names and places: a guess." if guessed else ".")
    ]
    if e.about["silent"]:
        out.append(
            f"{describe.some(e.about['silent'], 1)} would load as {'they are' if len(e.about['silent']) > 1 else 'it is'}, "
            "without an error and wrong: square weights that are turned like those beside them."
        )
    return out


def _fix(facts: Facts, pairs: Sequence[Pair]) -> Fix:
    if any(p.op.startswith("resize") for p in pairs) or facts.question.target is None:
        return Fix(title="Look at the mapping, and convert the file by it: relight map.", kind=FixKind.CODE)
    return Fix(
        title="Convert the file, into a copy:",
        kind=FixKind.FILE,
        applicability=Applicability.MANUAL,
        code=snippets.convert(facts),
        edits=_edits(facts, pairs),
        allow="guessed-mapping",
        note="The mapping is inferred: compare an output before you rely on it.",
    )


def _edits(facts: Facts, pairs: Sequence[Pair]) -> tuple[Edit, ...]:
    """The mapping as edits: what a tensor of the model is made of, and what nothing needs."""
    shapes = {p.key: p.shape or () for p in facts.spec.params}
    sources = {s for p in pairs for s in p.source}
    targets = {p.target for p in pairs}
    moved = [(p.target, p.source, p.op, shapes[p.target]) for p in pairs]
    # What fits as it is stays, also where something else is made of it.
    moved += [(k, (k,), "copy", shapes[k]) for k in facts.keys.matched if k in sources and k not in targets]
    used = sources | set(facts.keys.matched)
    unused = tuple(t.key for t in facts.checkpoint.tensors if t.key not in used)
    return (ConvertTensors(tuple(moved)), DropKeys(unused)) if unused else (ConvertTensors(tuple(moved)),)

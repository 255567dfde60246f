"""RL310."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relight.core.edits import RenameKeys
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind
from relight.facts import describe, new_layers, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import load_error
from relight.facts.facts import Facts
from relight.facts.patterns import folded
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_SEQ = {"net": "torch.nn.modules.container.Sequential"}


class IndexShifted(Rule):
    """A layer was put into or taken out of a numbered container, which renumbers the layers behind it.

    What it checks
    --------------
    Whether the numbered layers of the file are found in the model's Sequential or ModuleList in the same order, with
    the same shapes, at other numbers.

    Why loading fails
    -----------------
    The keys of an nn.Sequential are positions. A dropout in the middle moves everything behind it; where a number
    still exists it now means another layer, and shapes disagree, or worse, agree.

    How to fix
    ----------
    Add the layer so that the numbers stay (at the end, or with names by an OrderedDict), or rename the keys. Where a
    layer was taken out, nn.Identity in its place keeps the numbers.

    References
    ----------
    torch/nn/modules/container.py, ``Sequential``.
    """

    code = "RL310"
    name = "index-shifted"
    causes = ("sequential-index-shift",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="a dropout in the middle",
            file=File(tensors={"net.0.weight": (4, 3), "net.1.weight": (2, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (2, 4)}, modules=_SEQ),
        ),
        Fires(
            name="a layer inserted, numbers collide",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (4, 4), "net.4.weight": (1, 4)}, modules=_SEQ),
        ),
        Fires(
            name="a layer inserted, and two equal ones that it could be",
            file=File(tensors={"net.0.weight": (4, 4), "net.2.weight": (1, 4)}),
            model=Model(
                params={"net.0.weight": (4, 4), "net.2.weight": (4, 4), "net.4.weight": (1, 4)},
                modules=_SEQ | {f"net.{i}": "torch.nn.modules.linear.Linear" for i in (0, 2, 4)},
            ),
        ),
        Fires(
            name="a layer taken out, numbers collide",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (4, 4), "net.4.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}, modules=_SEQ),
        ),
        Fires(
            name="the same in every block: one finding",
            file=File(
                tensors={f"blocks.{i}.{j}.weight": (j + 2, 3) for i in range(3) for j in (0, 1)}
                | {"out.weight": (1, 3)}
            ),
            model=Model(
                params={f"blocks.{i}.{j + (j > 0)}.weight": (j + 2, 3) for i in range(3) for j in (0, 1)}
                | {"out.weight": (1, 3)}
            ),
        ),
        Silent(
            name="one block more of the same kind, at the end",
            file=File(tensors={f"layers.{i}.weight": (4, 4) for i in range(3)}),
            model=Model(params={f"layers.{i}.weight": (4, 4) for i in range(4)}),
        ),
        Silent(
            name="other sizes at the same numbers",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (5, 3), "net.2.weight": (1, 5)}, modules=_SEQ),
        ),
        Silent(
            name="the same numbers",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}, modules=_SEQ),
        ),
        Silent(
            name="a layer added at the end",
            file=File(tensors={"net.0.weight": (4, 3), "net.2.weight": (1, 4)}),
            model=Model(params={"net.0.weight": (4, 3), "net.2.weight": (1, 4), "net.4.weight": (5, 1)}, modules=_SEQ),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all containers in which the same happened."""
        shifts = facts.attribution.of("index-shift")
        if not facts.strict and not any(e.mismatched for e in shifts):
            return
        groups: dict[tuple[object, ...], list[Explanation]] = defaultdict(list)
        for e in shifts:
            groups[(e.about["moves"], e.about["new"], e.about["gone"])].append(e)
        for found in groups.values():
            first = found[0].about
            container, new, gone = first["container"], first["new"], first["gone"]
            containers = " and ".join(folded(_name(e) for e in found))
            moved = ", ".join(f"{a} -> {b}" for a, b in first["moves"][:6]) + (
                ", ..." if len(first["moves"]) > 6 else ""
            )
            evidence = [Evidence(containers, f"positions {moved}", describe.where(facts.spec, container))]
            dotted = first["prefix"]
            evidence += [
                Evidence(
                    f"{dotted}{i}", f"{describe.module_text(facts.spec, f'{dotted}{i}')}, not in the file".lstrip(", ")
                )
                for i in new[:3]
            ]
            evidence += [Evidence(f"{dotted}{i}", "no longer in the model") for i in gone[:3]]
            yield self.finding(
                f"the layers of {containers} are at other positions than in the checkpoint",
                confidence=Confidence.LIKELY,
                evidence=evidence,
                context=["Equal layers can be told apart by their order only: that the order is the same is a guess."],
                fixes=_fixes(facts, containers, found),
                subjects=[o for e in found for o, _ in e.pairs],
                explains=frozenset(k for e in found for k in e.keys),
                predicts=load_error(facts),
            )


def _name(e: Explanation) -> str:
    container, prefix = e.about["container"], e.about["prefix"]
    return (container or "the model") if prefix in ("", f"{container}.") else f"{prefix}*"


def _fixes(facts: Facts, containers: str, found: Sequence[Explanation]) -> list[Fix]:
    first = found[0].about
    new, gone = first["new"], first["gone"]
    pairs = [p for e in found for p in e.pairs]
    keep = f"Keep the positions of {containers}: " + (
        "put nn.Identity() in place of what was taken out."
        if gone
        else "add new layers behind the old ones, or outside of it."
    )
    fixes = [Fix(title=keep, kind=FixKind.CODE)]
    if not gone:
        fixes.append(
            Fix(
                title="If the order is the same, rename the keys in a copy; no tensor changes:",
                kind=FixKind.FILE,
                code=snippets.rewrite_keys(facts, pairs),
                # With a layer that the file lacks, no copy can be proved to load.
                edits=() if new else (RenameKeys(tuple(pairs)),),
                allow=None if new else "guessed-names",
                note=_then(facts, len(new)) if new else None,
            )
        )
        fixes += _begun(facts, found, pairs)
    if len(found) == 1:
        fixes += [_elsewhere(facts, first, moves, others) for moves, others in first["otherwise"]]
    return fixes


def _begun(facts: Facts, found: Sequence[Explanation], pairs: Sequence[tuple[str, str]]) -> list[Fix]:
    """The same with first values for what is new, where it begins as layers of torch do."""
    starts = [f"{e.about['prefix']}{i}." for e in found for i in e.about["new"]]
    keys = [p.key for p in facts.spec.persistent if p.key.startswith(tuple(starts))] if starts else []
    made = new_layers.initial(facts.spec, keys)
    if made is None:
        return []
    return [
        Fix(
            title="Or, if it is, put first values for what is new into the copy as well, as such layers of torch begin:",
            kind=FixKind.FILE,
            applicability=Applicability.MANUAL,
            edits=(RenameKeys(tuple(pairs)), made),
            allow="new-layers",
            note="Drawn as such layers draw theirs, the same each time; values that the model's own code sets are not known.",
        )
    ]


def _elsewhere(facts: Facts, about: Mapping[str, Any], moves: Sequence[tuple[int, int]], new: Sequence[int]) -> Fix:
    """The command for whoever knows that another one of several equal layers is the new one."""
    prefix = about["prefix"]
    options = [part for a, b in moves for part in ("--rename", f"{prefix}{a}={prefix}{b}")]
    keys = (
        [p.key for p in facts.spec.persistent if p.key.startswith(tuple(f"{prefix}{i}." for i in new))] if new else []
    )
    begun = bool(keys) and new_layers.initial(facts.spec, keys) is not None
    return Fix(
        title="Or say which layer is which; equally likely by names and shapes is:",
        kind=FixKind.FILE,
        applicability=Applicability.MANUAL,
        command=facts.question.command(
            "fix", None, *options, "-o", facts.question.fixed_path(), *(("--allow", "new-layers") if begun else ())
        ),
        note=f"Then {', '.join(f'{prefix}{i}' for i in new)} would be new." if new else None,
    )


def _then(facts: Facts, count: int) -> str:
    """How to load the copy, which lacks what was put in."""
    start = "The new layer starts" if count == 1 else "The new layers start"
    if not facts.calls_lightning:
        return f"{start} with random values: load the copy with strict=False."
    return (
        f"{start} with random values. Load the copy with strict=False: "
        f"{facts.question.load_call(facts.question.fixed_path(), strict=False)}"
    )

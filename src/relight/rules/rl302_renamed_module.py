"""RL302."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from relight.core.edits import RenameKeys
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind
from relight.facts import describe, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error, severity
from relight.facts.facts import Facts
from relight.facts.patterns import folded_pairs
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_FEW_RENAMES = 6  # of a command that can still be read
_NET = {"net.weight": (4, 3), "net.bias": (4,)}


class RenamedModule(Rule):
    """A part of the model has another name than in the checkpoint.

    What it checks
    --------------
    Whether keys that are missing and keys that are left over are the same subtree under another name: the same
    names below it, the same shapes, and one to one. Where several subtrees are equal in all this, names that are
    clearly alike decide, and the finding says that it is a guess; where not even those help, it says only that.

    Why loading fails
    -----------------
    A state_dict knows tensors by name. After a rename the old name is unexpected and the new one missing.

    How to fix
    ----------
    Rename the keys in a copy; no tensor changes. ``strict=False`` would leave the renamed part at random values.

    References
    ----------
    torch/nn/modules/module.py, ``Module.load_state_dict``.
    """

    code = "RL302"
    name = "renamed-module"
    causes = ("module-renamed",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="one layer renamed",
            file=File(tensors={**_NET, "layer2.weight": (5, 4), "layer2.bias": (5,)}),
            model=Model(params={**_NET, "head.weight": (5, 4), "head.bias": (5,)}),
        ),
        Fires(
            name="moved one level deeper",
            file=File(tensors={**_NET, "block.conv.weight": (2, 2, 3, 3), "block.bn.weight": (2,)}),
            model=Model(params={**_NET, "layer1.0.conv.weight": (2, 2, 3, 3), "layer1.0.bn.weight": (2,)}),
        ),
        Fires(
            name="two equal branches under new names",
            file=File(tensors={**_NET, "left.weight": (3, 3), "right.weight": (3, 3)}),
            model=Model(params={**_NET, "branch_a.weight": (3, 3), "branch_b.weight": (3, 3)}),
        ),
        Silent(name="one layer added", file=File(tensors=_NET), model=Model(params={**_NET, "head.weight": (5, 4)})),
        Silent(name="one layer removed", file=File(tensors={**_NET, "head.weight": (5, 4)}), model=Model(params=_NET)),
        Silent(
            name="added and removed, of other shapes",
            file=File(tensors={**_NET, "old.weight": (5, 4)}),
            model=Model(params={**_NET, "new.weight": (7, 7)}),
        ),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word all renames as one finding: they have one remedy."""
        renames = facts.attribution.of("renamed")
        if not renames:
            return
        known = [e for e in renames if e.pairs]
        open_groups = [e for e in renames if not e.pairs]
        pairs = [p for e in known for p in e.pairs]
        unsure = [e for e in known if "told" not in e.about and confidence(facts, e) is not Confidence.CERTAIN]
        guess = bool(unsure)
        evidence = [
            Evidence(
                f"{old} -> {new}",
                describe.tensors(count) + how,
                where,
            )
            for (old, new), count, how, where in _folded(facts, known)
        ]
        evidence += [
            Evidence(
                describe.some(e.about["olds"]),
                f"are now {describe.some(e.about['news'])}; which is which cannot be told from names and shapes",
            )
            for e in open_groups
        ]
        alike = _alike(facts, unsure)
        fixes = []
        if pairs and not open_groups:
            fixes.append(
                Fix(
                    title="Rename the keys in a copy; no tensor changes:"
                    if not guess
                    else "If the names above are right, rename the keys in a copy; no tensor changes:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE if not guess else Applicability.MANUAL,
                    code=snippets.rewrite_keys(facts, pairs),
                    edits=(RenameKeys(tuple(pairs)),),
                    allow="guessed-names" if guess else None,
                )
            )
        if pairs and not open_groups and alike and sum(map(len, alike)) <= _FEW_RENAMES:
            fixes.append(_others(facts, alike))
        if open_groups:
            olds = open_groups[0].about["olds"]
            news = open_groups[0].about["news"]
            fixes.append(
                Fix(
                    title="You know which is which: rename the keys in a copy. In this order it would be:",
                    kind=FixKind.FILE,
                    applicability=Applicability.MANUAL,
                    code=snippets.rewrite_prefixes(facts, dict(zip(olds, news, strict=False)), pairs),
                )
            )
        yield self.finding(
            _message(known, open_groups),
            confidence=Confidence.LIKELY if guess or open_groups else confidence(facts),
            severity=severity(facts, renames[0]),
            evidence=_few(evidence),
            context=[*_which(alike), "strict=False would leave them at random values."],
            fixes=fixes,
            subjects=[k for e in renames for k in e.unexpected],
            explains=frozenset(k for e in renames for k in e.keys),
            predicts=load_error(facts),
            wrong=not facts.strict,
        )


def _which(alike: Sequence[Sequence[Explanation]]) -> Iterator[str]:
    """What nobody can tell from the file."""
    for group in alike[:2]:
        olds, news = ([e.about[side] for e in group] for side in ("old", "new"))
        yield (
            f"{describe.listed(olds)} are equal in all but their names: which of them is "
            f"{', which '.join(news[:3])}{' and so on' if len(news) > 3 else ''} the file does not tell."
        )


def _few(evidence: Sequence[Evidence], limit: int = 6) -> list[Evidence]:
    """The lines that concern most, and how many more there are."""
    if len(evidence) <= limit:
        return list(evidence)
    return [*evidence[: limit - 1], Evidence("...", f"{len(evidence) - limit + 1} more")]


def _folded(facts: Facts, known: Sequence[Explanation]) -> list[tuple[tuple[str, str], int, str, str | None]]:
    """What is renamed to what, numbers folded: with how many tensors, how that is known, and where it is defined."""
    out = []
    for how in ("", ", by names and places: a guess", ", as --rename says"):
        tensors = {(e.about["old"], e.about["new"]): len(e.pairs) for e in known if _how(e) == how}
        for names, members in folded_pairs(tensors).items():
            count = sum(tensors[m] for m in members)
            out.append((names, count, how, describe.where(facts.spec, members[0][1])))
    return sorted(out, key=lambda line: -line[1])


def _how(e: Explanation) -> str:
    if "told" in e.about:
        return ", as --rename says"
    return "" if e.certain else ", by names and places: a guess"


def _alike(facts: Facts, unsure: Sequence[Explanation]) -> list[list[Explanation]]:
    """Guessed renames of subtrees that are equal in all but their names: each could be any of its group."""
    shapes = {t.key: t.shape for t in facts.checkpoint.tensors}
    groups: dict[frozenset[tuple[str, tuple[int, ...]]], list[Explanation]] = defaultdict(list)
    for e in unsure:
        old = e.about["old"]
        groups[frozenset((key[len(old) :], shapes[key]) for key, _ in e.pairs)].append(e)
    return [group for group in groups.values() if len(group) > 1]


def _others(facts: Facts, alike: Sequence[Sequence[Explanation]]) -> Fix:
    """The command for whoever knows that the names are others: here with those of equal parts moved on by one."""
    renames: list[str] = []
    for group in alike:
        news = [e.about["new"] for e in group]
        for e, new in zip(group, [*news[1:], news[0]], strict=True):
            renames += ["--rename", f"{e.about['old']}={new}"]
    return Fix(
        title="If they are others, say what each is called; in another order it would be:",
        kind=FixKind.FILE,
        applicability=Applicability.MANUAL,
        command=facts.question.command("fix", None, *renames, "-o", facts.question.fixed_path()),
    )


def _message(known: list[Explanation], open_groups: list[Explanation]) -> str:
    names = list(folded_pairs((e.about["old"], e.about["new"]) for e in known))
    if len(names) == 1 and not open_groups:
        old, new = names[0]
        return f"{old} in the checkpoint is {new} in the model"
    count = len(names) + sum(len(e.about["news"]) for e in open_groups)
    return f"{count} parts of the model have other names in the checkpoint"

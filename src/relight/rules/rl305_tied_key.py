"""RL305."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import AddNames, DropKeys, Edit
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.facts import snippets
from relight.facts.comparison import confidence, load_error, severity
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, Tensor

_SHARED = {"embed.weight": Tensor((4, 3), storage="e"), "decoder.weight": Tensor((4, 3), storage="e")}


class TiedKey(Rule):
    """One of two names of the same tensor is missing or extra.

    What it checks
    --------------
    Unexpected keys whose tensor lies on the same bytes as one that fits, and missing keys whose parameter is, in the
    model, the same object as one that the file has.

    Why loading fails
    -----------------
    Tied weights have two keys and one tensor. Whether both are written depends on the library and on whether they
    were tied at the time; ``strict=True`` wants exactly the model's keys.

    How to fix
    ----------
    Drop the extra name, or add the missing one, in a copy; no value is lost or invented.

    References
    ----------
    torch/nn/modules/module.py, ``Module.state_dict`` (it writes every name).
    """

    code = "RL305"
    name = "tied-key"
    causes = ("tied-weights-key",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="the second name is extra", file=File(tensors=_SHARED), model=Model(params={"embed.weight": (4, 3)})
        ),
        Fires(
            name="the second name is missing",
            file=File(tensors={"embed.weight": (4, 3)}),
            model=Model(
                params={"embed.weight": (4, 3), "decoder.weight": (4, 3)}, tied=(("embed.weight", "decoder.weight"),)
            ),
        ),
        Silent(
            name="both names on both sides",
            file=File(tensors=_SHARED),
            model=Model(
                params={"embed.weight": (4, 3), "decoder.weight": (4, 3)}, tied=(("embed.weight", "decoder.weight"),)
            ),
        ),
        Silent(
            name="an extra tensor of its own",
            file=File(tensors={"embed.weight": (4, 3), "decoder.weight": (4, 3)}),
            model=Model(params={"embed.weight": (4, 3)}),
        ),
        Silent(
            name="a missing tensor that is not tied",
            file=File(tensors={"embed.weight": (4, 3)}),
            model=Model(params={"embed.weight": (4, 3), "decoder.weight": (4, 3)}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for each side."""
        found = facts.attribution.of("tied")
        for side, group in (
            ("extra", [e for e in found if e.unexpected]),
            ("missing", [e for e in found if e.missing]),
        ):
            if not group or (not facts.strict):
                continue
            keys = [k for e in group for k in (*e.unexpected, *e.missing)]
            if side == "extra":
                edit: Edit = DropKeys(tuple(keys))
                code = snippets.drop_keys(facts, keys)
                title = "Leave the second name out of a copy; no value is lost:"
            else:
                twins = tuple((str(e.about["twin"]), e.missing[0]) for e in group)
                edit = AddNames(twins)
                code = snippets.add_names(facts, twins)
                title = "Add the missing name in a copy; no value is invented:"
            yield self.finding(
                f"{keys[0]} is a second name of {group[0].about['twin']}, which fits"
                if side == "extra"
                else f"{keys[0]} is missing; in the model it is the same tensor as {group[0].about['twin']}",
                severity=severity(facts, group[0]),
                confidence=confidence(facts, group[0]),
                evidence=[
                    Evidence((*e.unexpected, *e.missing)[0], f"is the same tensor as {e.about['twin']}") for e in group
                ][:5],
                fixes=[Fix(title=title, kind=FixKind.FILE, applicability=Applicability.SAFE, code=code, edits=(edit,))],
                subjects=keys,
                explains=frozenset(k for e in group for k in e.keys),
                predicts=load_error(facts),
            )

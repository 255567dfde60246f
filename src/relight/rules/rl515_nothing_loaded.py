"""RL515."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent
from relight.facts import describe
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_OTHER = File(tensors={"encoder.conv.weight": (64, 3, 7, 7)})


class NothingLoaded(Rule):
    """With strict=False nothing of the file gets into the model, which keeps its random values.

    What it checks
    --------------
    Whether, not strict, a single key of the file is one of the model's.

    Why loading fails
    -----------------
    It does not: ``strict=False`` skips what does not fit, here everything. torch says nothing, Lightning warns. The
    model then computes with the values that its constructor drew.

    How to fix
    ----------
    Load strictly: the error names the keys. Often they only have another beginning.

    References
    ----------
    torch/nn/modules/module.py, ``load_state_dict``.
    """

    code = "RL515"
    name = "nothing-loaded"
    causes = ("strict-false-random",)
    severity = Severity.WARNING
    phase = Phase.RESIDUAL
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="another model", file=_OTHER, model=Model(), intent=Intent(strict=False)),
        Fires(
            name="the class is not strict, and another model",
            file=_OTHER,
            model=Model(strict_loading=False),
        ),
        Silent(name="strict, which raises", file=_OTHER, model=Model()),
        Silent(name="not strict, and all fits", model=Model(), intent=Intent(strict=False)),
        Silent(
            name="not strict, and one layer is new",
            model=Model(params={"net.weight": (2, 3), "net.bias": (2,), "head.weight": (1, 2)}),
            intent=Intent(strict=False),
        ),
        Silent(
            name="another beginning: the rule on that says so",
            file=File(tensors={"module.net.weight": (2, 3), "module.net.bias": (2,)}),
            model=Model(),
            intent=Intent(strict=False),
        ),
        Silent(name="a model without weights", file=_OTHER, model=Model(params={}), intent=Intent(strict=False)),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only where nothing else is known of the keys: not one fits, and none could be paired."""
        diff = facts.keys
        if facts.strict or not facts.attribution.unrelated or diff.mismatched:
            return
        fits = len(diff.matched)
        yield self.finding(
            "not one tensor of this file gets into the model: it keeps its random values"
            if not fits
            else f"hardly a tensor of this file gets into the model ({fits} of {fits + len(diff.unexpected):,}): "
            "the rest keeps its random values",
            evidence=[
                Evidence(
                    "checkpoint", f"{describe.tensors(len(diff.unexpected))}: {describe.some(diff.unexpected, 3)}"
                ),
                Evidence("model", f"{describe.tensors(len(diff.missing))}: {describe.some(diff.missing, 3)}"),
            ],
            context=["Not strict, loading skips what does not fit, here everything."],
            fixes=[Fix(title="Check that file and class belong together; load strictly.", kind=FixKind.CODE)],
            subjects=(*diff.unexpected, *diff.missing),
            wrong=True,
        )

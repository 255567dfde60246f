"""RL909."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Finding, Fix, FixKind, Severity
from relight.facts import changed
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, make, manifest, probe

_NET = {"net": "torch.nn.modules.linear.Linear"}
_HOOKED = make(_NET, hooks={"net": ["models.halve"]})


class HooksChanged(Rule):
    """Functions that were hooked into a layer when the model was saved are gone, or others have come.

    What it checks
    --------------
    Forward hooks and forward pre-hooks of each module, by the last part of their names. Those of loggers and summaries only
    look, and are passed over. A hook may only look, too: where the model answers as it did then, nothing is said, and
    without an answer to compare this stays a note.

    Why loading fails
    -----------------
    It does not: hooks are not in the state_dict, though what they return replaces inputs and outputs.

    How to fix
    ----------
    Register the hook where the model is made, in the constructor, so that every process has it.

    References
    ----------
    torch/nn/modules/module.py, ``_call_impl``: a value that a hook returns takes the place of the output.
    """

    code = "RL909"
    name = "hooks-changed"
    causes = ("activation-changed",)
    severity = Severity.NOTE
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="a hook is gone",
            file=File(extra=manifest(_HOOKED)),
            model=Model(architecture=make(_NET)),
            oracle=False,
        ),
        Fires(
            name="a hook has come, and the answers are others",
            file=File(extra=manifest(make(_NET), probe=probe([0.5, -1.0]))),
            model=Model(architecture=_HOOKED, answer=probe([0.25, -0.5])),
            oracle=False,
        ),
        Silent(
            name="the answers are the same",
            file=File(extra=manifest(_HOOKED, probe=probe([0.5, -1.0]))),
            model=Model(architecture=make(_NET), answer=probe([0.5, -1.0])),
        ),
        Silent(
            name="a logger had hooked itself in",
            file=File(extra=manifest(make(_NET, hooks={"net": ["wandb.sdk.watch"]}))),
            model=Model(architecture=make(_NET)),
        ),
        Silent(
            name="the same hook, from another file",
            file=File(extra=manifest(_HOOKED)),
            model=Model(architecture=make(_NET, hooks={"net": ["layers.halve"]})),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all hooks; a warning where the answers show what they do."""
        found, outcome = facts.changes.hooks, facts.replayed
        if not found or (outcome is not None and outcome.same is True):
            return
        shown = outcome is not None and outcome.same is False
        names = list(dict.fromkeys((c.saved or c.now or "").rpartition(".")[2] for c in found))
        one = found[0]
        yield self.finding(
            f"forward hooks are not those of the model that was {facts.manifest.verb}",
            severity=Severity.WARNING if shown else Severity.NOTE,
            confidence=Confidence.LIKELY,
            evidence=changed.evidence(facts, found),
            context=changed.context(facts, "Hooks are not in the state_dict, so loading cannot notice."),
            fixes=[
                Fix(
                    title=f"Register {names[0]} in the constructor of {one.path or 'the model'}, where it changes answers."
                    if one.now is None
                    else f"Leave {names[0]} out of {one.path or 'the model'}, where it changes answers.",
                    kind=FixKind.CODE,
                ),
                changed.meant(facts, self.name),
            ],
            subjects=[c.label for c in found],
            wrong=shown,
        )

"""RL911."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Finding, Fix, FixKind, Severity
from relight.facts import changed
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, make, manifest, probe

_NET = {"net": "torch.nn.modules.linear.Linear"}
_SHORT, _LONG = make(_NET, buffers={"net.table": (8,)}), make(_NET, buffers={"net.table": (16,)})


class UnsavedBufferChanged(Rule):
    """A buffer that no file holds is not what it was when the model was saved.

    What it checks
    --------------
    Buffers registered with ``persistent=False``: their shapes, and, where the model is asked what it answered then, a few
    numbers of what is in them (position tables, means and deviations of inputs, masks). Where the answers are the same,
    nothing is said; without an answer to compare this stays a note.

    Why loading fails
    -----------------
    It does not: such buffers are not in the state_dict. What is in them comes from the code of today.

    How to fix
    ----------
    Compute the buffer as it was, or register it with ``persistent=True`` from now on.

    References
    ----------
    torch/nn/modules/module.py, ``register_buffer``: a buffer that is not persistent is no part of the state_dict.
    """

    code = "RL911"
    name = "unsaved-buffer-changed"
    causes = ("activation-changed",)
    severity = Severity.NOTE
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="a longer table",
            file=File(extra=manifest(_SHORT)),
            model=Model(architecture=_LONG),
            oracle=False,
        ),
        Fires(
            name="a table that came, and the answers are others",
            file=File(extra=manifest(make(_NET), probe=probe([0.5, -1.0]))),
            model=Model(architecture=_SHORT, answer=probe([0.25, -0.5])),
            oracle=False,
        ),
        Silent(
            name="a longer table, and the answers are the same",
            file=File(extra=manifest(_SHORT, probe=probe([0.5, -1.0]))),
            model=Model(architecture=_LONG, answer=probe([0.5, -1.0])),
        ),
        Silent(name="as it was", file=File(extra=manifest(_SHORT)), model=Model(architecture=_SHORT)),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all of them; a warning where the answers show it."""
        found, outcome = facts.changes.buffers, facts.replayed
        if not found or (outcome is not None and outcome.same is True):
            return
        shown = outcome is not None and outcome.same is False
        yield self.finding(
            f"{'a buffer' if len(found) == 1 else f'{len(found)} buffers'} that no file holds "
            f"{'is' if len(found) == 1 else 'are'} not what the model was {facts.manifest.verb} with",
            severity=Severity.WARNING if shown else Severity.NOTE,
            confidence=Confidence.LIKELY,
            evidence=changed.evidence(facts, found),
            context=changed.context(facts, "Buffers with persistent=False are not in the state_dict."),
            fixes=[
                Fix(title=f"Compute {found[0].label} as it was, where it changes answers.", kind=FixKind.CODE),
                changed.meant(facts, self.name),
            ],
            subjects=[c.label for c in found],
            wrong=shown,
        )

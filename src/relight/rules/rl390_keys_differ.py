"""RL390."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent
from relight.facts import describe
from relight.facts.comparison import load_error
from relight.facts.facts import Facts
from relight.facts.patterns import folded
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

# Readings that say no more than "is there on one side only", or "has another size".
_RESIDUAL_KINDS = frozenset(
    {"added", "removed", "head", "vocabulary", "positions", "kernel", "channels", "transposed", "size", "variant"}
)


class KeysDiffer(Rule):
    """File and model have so little in common that another model was probably meant.

    What it checks
    --------------
    What no other rule on keys explains; above all, files of which hardly a tensor fits the model.

    Why loading fails
    -----------------
    Nearly all keys are missing and nearly all are unexpected at the same time.

    How to fix
    ----------
    Check that file and class belong together: another variant, a base class, a file of another program.

    References
    ----------
    torch/nn/modules/module.py, ``Module.load_state_dict``.
    """

    code = "RL390"
    name = "keys-differ"
    causes = ("wrong-lightning-class", "key-missing-unexpected", "non-tensor-value")
    phase = Phase.RESIDUAL
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="another model altogether",
            file=File(tensors={"encoder.conv1.weight": (64, 3, 7, 7), "encoder.conv2.weight": (64, 64, 3, 3)}),
            model=Model(params={"net.0.weight": (16, 8), "net.0.bias": (16,)}),
        ),
        Fires(
            name="another model, and one bias that fits by chance",
            file=File(tensors={f"encoder.conv{i}.weight": (8, 8 + i, 3, 3) for i in range(12)} | {"head.bias": (10,)}),
            model=Model(params={f"blocks.{i}.mlp.weight": (64 + i, 64) for i in range(12)} | {"head.bias": (10,)}),
        ),
        Silent(name="the right model"),
        Silent(
            name="one layer added",
            model=Model(params={"net.weight": (2, 3), "net.bias": (2,), "head.weight": (1, 2)}),
        ),
        Silent(
            name="not strict, and nothing in common",
            file=File(tensors={"a.weight": (1, 2)}),
            model=Model(params={"b.weight": (3, 4)}),
            intent=Intent(strict=False, weights_only=None),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only where the file has nothing of the model."""
        diff = facts.keys
        attribution = facts.attribution
        if attribution.unrelated and (facts.strict or diff.mismatched):
            # What has a reading of its own (a wrapper, buffers of a library) keeps it.
            told = frozenset(k for e in attribution.explanations if e.kind not in _RESIDUAL_KINDS for k in e.keys)
            missing = [k for k in diff.missing if k not in told]
            unexpected = [k for k in diff.unexpected if k not in told]
            fits = len(diff.matched)
            yield self.finding(
                "not one tensor of this file fits this model"
                if not fits
                else f"hardly a tensor of this file fits this model: {fits} of {fits + len(diff.unexpected):,}",
                confidence=Confidence.LIKELY,
                evidence=[
                    Evidence(
                        "checkpoint", f"{describe.tensors(len(unexpected))}: {describe.some(folded(unexpected), 3)}"
                    ),
                    Evidence("model", f"{describe.tensors(len(missing))}: {describe.some(folded(missing), 3)}"),
                ],
                context=["That is another model, another variant of it, or a file of another program."],
                fixes=[Fix(title="Check that file and class belong together.", kind=FixKind.CODE)],
                subjects=(*unexpected, *missing),
                explains=frozenset((*unexpected, *missing, *(m.key for m in diff.mismatched if m.key not in told))),
                predicts=load_error(facts),
            )
            return
        explained = frozenset(k for e in attribution.explanations for k in e.keys)
        rest = [k for k in (*diff.missing, *diff.unexpected) if k not in explained]
        if (rest and facts.strict) or diff.other_errors:
            yield self.finding(
                "some keys differ, and no rule knows why",
                cause="non-tensor-value" if diff.other_errors else "key-missing-unexpected",
                severity=Severity.ERROR,
                confidence=Confidence.LIKELY,
                evidence=[Evidence("load_state_dict", s) for s in diff.other_errors[:3]]
                + ([Evidence("keys", describe.some(folded(rest)))] if rest else []),
                fixes=[Fix(title="Compare the lists of keys: relight inspect shows the file's.", kind=FixKind.CODE)],
                subjects=rest,
                explains=frozenset(rest),
                predicts=load_error(facts),
            )

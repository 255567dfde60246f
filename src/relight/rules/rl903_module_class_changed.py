"""RL903."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Finding, Fix, FixKind, Severity
from relight.facts import changed
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, function, make, manifest

_NN = "torch.nn.modules."
_SEQUENTIAL = f"{_NN}container.Sequential"


class ModuleClassChanged(Rule):
    """A layer is of another class than when the model was saved, and has the same weights or none.

    What it checks
    --------------
    Class by class along the paths of the model: a pooling or a loss of another kind, a layer of one's own in place of a
    library's, a layer without weights that was added to or taken out of a Sequential. A class of the user's that is called
    something else and does the same is the same one.

    Why loading fails
    -----------------
    It does not: names and shapes agree.

    How to fix
    ----------
    Use the class that was trained.

    References
    ----------
    torch/nn/modules/module.py, ``load_state_dict`` compares names and shapes.
    """

    code = "RL903"
    name = "module-class-changed"
    causes = ("activation-changed",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "manifest"})
    examples = (
        Fires(
            name="another kind of pooling",
            file=File(extra=manifest(make({"pool": f"{_NN}pooling.MaxPool2d"}))),
            model=Model(architecture=make({"pool": f"{_NN}pooling.AvgPool2d"})),
            oracle=False,
        ),
        Fires(
            name="a softmax was taken out of a Sequential",
            file=File(extra=manifest(make({"s": _SEQUENTIAL, "s.0": f"{_NN}linear.Linear", "s.1": f"{_NN}activation.Softmax"}))),
            model=Model(architecture=make({"s": _SEQUENTIAL, "s.0": f"{_NN}linear.Linear"})),
            oracle=False,
        ),
        Silent(
            name="a class of the user's that is called something else: its code is compared",
            file=File(extra=manifest(make({"net": ("models.B", {})}, net=function("a1", [("s1", 3)])))),
            model=Model(architecture=make({"net": ("models.C", {})}, net=function("b1", [("s2", 3)]))),
        ),
        Silent(
            name="a class that does nothing was added to a Sequential",
            file=File(extra=manifest(make({"s": _SEQUENTIAL, "s.0": f"{_NN}linear.Linear"}))),
            model=Model(architecture=make({"s": _SEQUENTIAL, "s.0": f"{_NN}linear.Linear", "s.1": f"{_NN}linear.Identity"})),
        ),
        Silent(
            name="a module of the user's moved to another file",
            file=File(extra=manifest(make({"net": ("train.Block", {})}))),
            model=Model(architecture=make({"net": ("models.Block", {})})),
        ),
        Silent(
            name="a lazy layer that has met an input, and one that has not",
            file=File(extra=manifest(make({"net": f"{_NN}linear.Linear"}))),
            model=Model(architecture=make({"net": f"{_NN}linear.LazyLinear"})),
        ),
        Silent(
            name="a reparametrised layer",
            file=File(extra=manifest(make({"net": f"{_NN}linear.Linear"}))),
            model=Model(architecture=make({"net": "torch.nn.utils.parametrize.ParametrizedLinear"})),
        ),
        Silent(
            name="a private module of torch moved",
            file=File(extra=manifest(make({"net": f"{_NN}linear.Linear"}))),
            model=Model(architecture=make({"net": "torch.nn.modules.dense.Linear"})),
        ),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for what every answer notices, one for what only training does."""
        found = [c for c in facts.changes.modules if not c.activation]
        for training in (False, True):
            part = [c for c in found if c.only_training is training]
            if not part:
                continue
            first = part[0]
            yield self.finding(
                f"a layer is not of the class it was {facts.manifest.verb} with"
                if len(part) == 1
                else f"{len(part)} layers are not of the classes they were {facts.manifest.verb} with",
                confidence=changed.confidence(facts, certain=all(c.certain for c in part)),
                evidence=changed.evidence(facts, part),
                context=changed.context(
                    facts, "Names and shapes of weights agree, so loading cannot notice.", training=training
                ),
                fixes=[
                    Fix(
                        title=f"To keep what was {facts.manifest.trained}, "
                        + (f"make {first.label} {first.saved} again" if first.saved else f"take {first.label} out")
                        + (f" ({first.line})." if first.line else "."),
                        kind=FixKind.CODE,
                    ),
                    changed.meant(facts, self.name),
                ],
                subjects=[c.label for c in part],
                wrong=changed.is_wrong(facts, training=training),
            )

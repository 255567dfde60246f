"""RL905."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Severity
from relight.facts.describe import some
from relight.facts.facts import Facts
from relight.facts.versions import release
from relight.rulekit import Env, File, Fires, Model, Phase, Rule, Silent, make, manifest

_VIT = {"vit": "timm.models.vision_transformer.VisionTransformer"}
_TORCH = {"torch": "2.13.0", "lightning": "2.6.6", "pytorch-lightning": "2.6.6", "numpy": "2.4.6"}
# What they compute is what their releases keep the same; a difference alone is never a finding.
_STEADY = frozenset({"torch", "lightning", "pytorch_lightning", "torchmetrics"})


class DependencyChanged(Rule):
    """A package that defines layers of the model has another version than when it was saved.

    What it checks
    --------------
    Packages, other than torch and Lightning, whose classes stand in the model of the manifest: the version of then
    against the installed one, by major and minor number. Where the model answers as it did then, nothing is said.

    Why loading fails
    -----------------
    It does not. Layers of a library may compute something else in another release, with the same names and shapes.

    How to fix
    ----------
    Install the version of then, or compare the answers.

    References
    ----------
    None: what a release changes is in the notes of that package.
    """

    code = "RL905"
    name = "dependency-changed"
    causes = ("activation-changed",)
    severity = Severity.NOTE
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec", "environment", "manifest"})
    examples = (
        Fires(
            name="another minor version of a library of layers",
            file=File(extra=manifest(make(_VIT), packages={"timm": "0.9.16"})),
            model=Model(architecture=make(_VIT)),
            env=Env(packages={**_TORCH, "timm": "1.0.31"}),
            oracle=False,
        ),
        Silent(
            name="another patch release",
            file=File(extra=manifest(make(_VIT), packages={"timm": "1.0.3"})),
            model=Model(architecture=make(_VIT)),
            env=Env(packages={**_TORCH, "timm": "1.0.31"}),
        ),
        Silent(
            name="a package that defines no layer",
            file=File(extra=manifest(make(_VIT), packages={"timm": "1.0.31", "pandas": "1.5.0"})),
            model=Model(architecture=make(_VIT)),
            env=Env(packages={**_TORCH, "timm": "1.0.31", "pandas": "2.2.0"}),
        ),
        Silent(
            name="another torch",
            file=File(extra=manifest(make({"net": "torch.nn.modules.linear.Linear"}), packages={"torch": "2.1.0"})),
            model=Model(architecture=make({"net": "torch.nn.modules.linear.Linear"})),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One note for all of them."""
        made = facts.manifest.make
        outcome = facts.replayed
        if made is None or (outcome is not None and outcome.same is True):
            return
        then, now = facts.manifest.packages, facts.environment.packages
        found: dict[str, tuple[str, str, list[str]]] = {}
        for module in made.modules:
            package = module.package
            if package is None or package in _STEADY:
                continue
            for name in facts.manifest.distributions(package):
                if name in then and name in now and release(then[name])[:2] != release(now[name])[:2]:
                    found.setdefault(name, (then[name], now[name], []))[2].append(module.name)
        if not found:
            return
        verb = facts.manifest.verb
        yield self.finding(
            f"{some(found)} {'has' if len(found) == 1 else 'have'} another version than when this was {verb}",
            evidence=[
                Evidence(name, f"{verb} with {a}, now {b}; defines {some(dict.fromkeys(classes), 3)}")
                for name, (a, b, classes) in found.items()
            ],
            fixes=[
                Fix(
                    title="Where answers have to be the same, install the version of then:",
                    kind=FixKind.ENVIRONMENT,
                    command="pip install " + " ".join(f"{name}=={a}" for name, (a, _, _) in found.items()),
                )
            ],
            subjects=list(found),
        )

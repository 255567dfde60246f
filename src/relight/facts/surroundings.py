"""What a training program ran on, beside what is here: first what touches the model, versions of anything else last."""

from __future__ import annotations

from dataclasses import dataclass

from relight.core.manifest import Manifest
from relight.core.target import Environment
from relight.facts.describe import some
from relight.facts.versions import release

_FRAMEWORK = ("torch", "lightning", "pytorch-lightning")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that has another version here.

    Attributes:
        name: Of the distribution, or ``python``.
        then: Version in the manifest.
        now: Version here.
        why: What it has to do with the model.
        rank: The smaller, the closer to the model.
    """

    name: str
    then: str
    now: str
    why: str
    rank: int


def differences(manifest: Manifest, environment: Environment) -> list[Difference]:
    """Versions that are not what they were, by how close they are to the model; patch releases are passed over.

    Args:
        manifest: Of the file.
        environment: Where it is loaded; what is not known of it is not compared.
    """
    layers: dict[str, list[str]] = {}
    for module in manifest.make.modules if manifest.make is not None else ():
        if module.package is not None:
            for name in manifest.distributions(module.package):
                layers.setdefault(name, []).append(module.name)
    out: list[Difference] = []
    pairs = [(name, then, environment.packages.get(name)) for name, then in manifest.packages.items()]
    python = manifest.part("environment").get("python")
    if isinstance(python, str):
        pairs.append(("python", python, environment.python))
    for name, then, now in pairs:
        if now is None or release(then)[:2] == release(now)[:2]:
            continue
        if name in layers and name not in _FRAMEWORK:
            why, rank = f"defines {some(dict.fromkeys(layers[name]), 3)}", 0
        elif name in _FRAMEWORK:
            why, rank = "runs the model", 1
        elif name == "python":
            why, rank = "runs the program", 2
        else:
            why, rank = "defines no layer of it", 3
        out.append(Difference(name, then, now, why, rank))
    return sorted(out, key=lambda d: (d.rank, d.name))

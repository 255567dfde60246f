"""relight: the PyTorch checkpoint doctor.

Will this checkpoint load, into this model, here, for this purpose, and if not, how do I make it?

The functions have the names of the commands and give the same results:

- `inspect` reads a checkpoint without executing anything in it.
- `check` compares it with a model and an environment, and says why it will not load and what to do.
- `spec` describes a model as plain data, so that `check` works where there is no torch.
- `map_keys` finds which tensor of a checkpoint belongs where in a model, and by which rules.
- `diff` compares two checkpoints; `verify` reads every byte of one and compares its checksums.
- `CheckpointManifest`, a Lightning callback, and `with_manifest`, for ``torch.save``, write into a checkpoint what its keys
  do not show: `check` then sees an activation that changed.

Everything else hangs off their results: `Checkpoint`, `Report`, `Finding`, `Fix`, `ModelSpec`, `Environment`.
Importing this package loads nothing but the standard library, and of that very little: names are looked up when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.core.version import __version__

if TYPE_CHECKING:
    from relight.api import check, diff, inspect, map_keys, spec, verify
    from relight.core.checkpoint import Checkpoint
    from relight.core.errors import MissingFact, RelightError, RuleDefinitionError, SourceError, UsageError
    from relight.core.finding import Finding, Fix, Report, Verdict
    from relight.core.target import Environment, ModelSpec
    from relight.manifest.callback import CheckpointManifest
    from relight.manifest.plain import with_manifest

_HOMES = {
    "check": "relight.api",
    "diff": "relight.api",
    "inspect": "relight.api",
    "map_keys": "relight.api",
    "spec": "relight.api",
    "verify": "relight.api",
    "with_manifest": "relight.manifest.plain",
    "Checkpoint": "relight.core.checkpoint",
    "CheckpointManifest": "relight.manifest.callback",
    "Environment": "relight.core.target",
    "Finding": "relight.core.finding",
    "Fix": "relight.core.finding",
    "MissingFact": "relight.core.errors",
    "ModelSpec": "relight.core.target",
    "RelightError": "relight.core.errors",
    "Report": "relight.core.finding",
    "RuleDefinitionError": "relight.core.errors",
    "SourceError": "relight.core.errors",
    "UsageError": "relight.core.errors",
    "Verdict": "relight.core.finding",
}

__all__ = [
    "Checkpoint",
    "CheckpointManifest",
    "Environment",
    "Finding",
    "Fix",
    "MissingFact",
    "ModelSpec",
    "RelightError",
    "Report",
    "RuleDefinitionError",
    "SourceError",
    "UsageError",
    "Verdict",
    "__version__",
    "check",
    "diff",
    "inspect",
    "map_keys",
    "spec",
    "verify",
    "with_manifest",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'relight' has no attribute {name!r}")
    from importlib import import_module  # noqa: TID251 (our own modules, by a fixed table)

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

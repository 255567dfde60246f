"""relight: the PyTorch checkpoint doctor.

Will this checkpoint load, into this model, here, for this purpose, and if not, how do I make it?

The functions have the names of the commands and give the same results:

- `inspect` reads a checkpoint without executing anything in it.
- `check` compares it with a model and an environment, and says why it will not load and what to do.
- `rank_targets` does so with several models: which class was this?
- `fix` writes a corrected copy and proves that it is one; `plan` says what it would do, `undo` takes back what was
  repaired in place.
- `load` is ``load_from_checkpoint`` that repairs what is safe to repair, and says why where it cannot load; `report_of`
  says what it did.
- `convert` writes it in another layout: safetensors, one file of a folder, today's torch of an old one.
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
    from relight.api import (
        check,
        convert,
        diff,
        fix,
        inspect,
        load,
        map_keys,
        plan,
        rank_targets,
        report_of,
        spec,
        undo,
        verify,
        write_baseline,
    )
    from relight.core.checkpoint import Checkpoint
    from relight.core.conversion import Conversion
    from relight.core.edits import LoadReport, Plan, Receipt
    from relight.core.errors import (
        ConversionError,
        LoadError,
        MissingFact,
        RelightError,
        RepairError,
        RuleDefinitionError,
        SourceError,
        UsageError,
    )
    from relight.core.finding import Finding, Fix, Verdict
    from relight.core.target import Environment, ModelSpec
    from relight.manifest.callback import CheckpointManifest
    from relight.manifest.plain import with_manifest
    from relight.report.printable import Report

_HOMES = {
    "check": "relight.api",
    "convert": "relight.api",
    "diff": "relight.api",
    "fix": "relight.api",
    "inspect": "relight.api",
    "load": "relight.api",
    "map_keys": "relight.api",
    "plan": "relight.api",
    "rank_targets": "relight.api",
    "report_of": "relight.api",
    "seal": "relight.api",
    "spec": "relight.api",
    "undo": "relight.api",
    "verify": "relight.api",
    "with_manifest": "relight.manifest.plain",
    "write_baseline": "relight.api",
    "Checkpoint": "relight.core.checkpoint",
    "CheckpointManifest": "relight.manifest.callback",
    "Conversion": "relight.core.conversion",
    "ConversionError": "relight.core.errors",
    "Environment": "relight.core.target",
    "Finding": "relight.core.finding",
    "Fix": "relight.core.finding",
    "LoadError": "relight.core.errors",
    "LoadReport": "relight.core.edits",
    "MissingFact": "relight.core.errors",
    "ModelSpec": "relight.core.target",
    "Plan": "relight.core.edits",
    "Receipt": "relight.core.edits",
    "RelightError": "relight.core.errors",
    "RepairError": "relight.core.errors",
    "Report": "relight.report.printable",
    "RuleDefinitionError": "relight.core.errors",
    "SourceError": "relight.core.errors",
    "UsageError": "relight.core.errors",
    "Verdict": "relight.core.finding",
}

__all__ = [
    "Checkpoint",
    "CheckpointManifest",
    "Conversion",
    "ConversionError",
    "Environment",
    "Finding",
    "Fix",
    "LoadError",
    "LoadReport",
    "MissingFact",
    "ModelSpec",
    "Plan",
    "Receipt",
    "RelightError",
    "RepairError",
    "Report",
    "RuleDefinitionError",
    "SourceError",
    "UsageError",
    "Verdict",
    "__version__",
    "check",
    "convert",
    "diff",
    "fix",
    "inspect",
    "load",
    "map_keys",
    "plan",
    "rank_targets",
    "report_of",
    "seal",
    "spec",
    "undo",
    "verify",
    "with_manifest",
    "write_baseline",
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

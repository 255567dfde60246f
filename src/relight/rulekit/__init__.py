"""What a rule is made of. A rule imports this package, `relight.core` and `relight.facts`, and nothing else of relight."""

from __future__ import annotations

from relight.rulekit.example import (
    Env,
    File,
    Fires,
    Model,
    Obj,
    Ref,
    Silent,
    Tensor,
    function,
    make,
    manifest,
    probe,
)
from relight.rulekit.rule import Phase, Rule

__all__ = [
    "Env",
    "File",
    "Fires",
    "Model",
    "Obj",
    "Phase",
    "Ref",
    "Rule",
    "Silent",
    "Tensor",
    "function",
    "make",
    "manifest",
    "probe",
]

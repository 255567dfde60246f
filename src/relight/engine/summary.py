"""The few facts on the file that a report starts with."""

from __future__ import annotations

from typing import Any

from relight.core.target import IntentCall
from relight.facts.facts import Facts
from relight.facts.lightning import LightningView


def summary(facts: Facts) -> dict[str, Any]:
    """What the first lines of a report say of the file; JSON-ready."""
    checkpoint = facts.checkpoint
    view = LightningView(checkpoint)
    numel = sum(t.numel for t in checkpoint.tensors)
    out: dict[str, Any] = {
        "layout": checkpoint.layout.value,
        "bytes": checkpoint.nbytes,
        "kind": view.kind if checkpoint.readable else None,
        "lightning": view.version,
        "epoch": view.epoch,
        "global_step": view.global_step,
        "tensors": len(checkpoint.tensors),
        "values": numel,
        "optimizers": [family for family, _ in view.optimizer_entries],
        "devices": list(dict.fromkeys(s.device for s in checkpoint.storages.values())),
    }
    if facts.intent.call is IntentCall.RESUME and checkpoint.readable and facts.environment_known:
        starts = facts.resume.starts if facts.environment.lightning is not None else None
        out["resumes_at"] = None if starts is None else {"epoch": starts.epoch, "step": starts.step}
    return out

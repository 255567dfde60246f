"""What a run was made of: optimizers with the names of their parameters, schedulers, precision, strategy, callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relight.manifest.structure import class_path, text_of


def training(model: Any, optimizers: Sequence[Any] = (), trainer: Any = None) -> dict[str, Any]:
    """The facts of a run.

    Args:
        model: The module whose parameters are trained.
        optimizers: Its optimizers; with a trainer, those of the trainer.
        trainer: Lightning's Trainer, None without one.
    """
    out: dict[str, Any] = {"parameters": [], "optimizers": [], "schedulers": []}
    if trainer is not None:
        optimizers = list(getattr(trainer, "optimizers", None) or ())
        out.update(_run(trainer))
        out["schedulers"] = [scheduler(c.scheduler) for c in getattr(trainer, "lr_scheduler_configs", None) or ()]
    names = {id(p): name for name, p in model.named_parameters()}
    if optimizers:
        out["parameters"] = list(names.values())
    position = {key: i for i, key in enumerate(names)}
    out["optimizers"] = [optimizer(o, position) for o in optimizers]
    return out


def optimizer(value: Any, position: Mapping[int, int]) -> dict[str, Any]:
    """Class, and for each group its options and the positions of its parameters among the model's, in order."""
    value = getattr(value, "_optimizer", value)  # Lightning's own wrapper
    groups = []
    for group in value.param_groups:
        options = {k: text_of(v) for k, v in group.items() if k != "params" and text_of(v) is not None}
        groups.append({"options": options, "parameters": ranges(position.get(id(p), -1) for p in group["params"])})
    return {"class": class_path(type(value)), "groups": groups}


def ranges(positions: Iterable[int]) -> list[list[int]]:
    """Positions as [first, last] of ascending runs: the usual order of thousands of parameters is one pair."""
    out: list[list[int]] = []
    for n in positions:
        if out and n == out[-1][1] + 1 and n >= 0:
            out[-1][1] = n
        else:
            out.append([n, n])
    return out


def scheduler(value: Any) -> dict[str, Any]:
    """Class, and the arguments that it kept as plain values."""
    hidden = {"optimizer", "last_epoch", "verbose", "base_lrs"}
    arguments = {
        k: text_of(v)
        for k, v in vars(value).items()
        if not k.startswith("_") and k not in hidden and text_of(v) is not None
    }
    return {"class": class_path(type(value)), "arguments": arguments}


def _run(trainer: Any) -> dict[str, Any]:
    strategy = getattr(trainer, "strategy", None)
    return {
        "precision": str(getattr(trainer, "precision", None)),
        "strategy": None if strategy is None else class_path(type(strategy)),
        "world_size": getattr(trainer, "world_size", None),
        "accumulate_grad_batches": getattr(trainer, "accumulate_grad_batches", None),
        "max_epochs": getattr(trainer, "max_epochs", None),
        "callbacks": [class_path(type(c)) for c in getattr(trainer, "callbacks", None) or ()],
    }

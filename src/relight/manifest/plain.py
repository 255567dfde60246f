"""The one call for programs that save with ``torch.save``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from relight.manifest import record

C = TypeVar("C")


def with_manifest(checkpoint: C, model: Any, *, optimizers: Sequence[Any] = (), example: Any = None) -> C:
    """Add a manifest to what is going to be saved: ``torch.save(with_manifest(model.state_dict(), model), path)``.

    Args:
        checkpoint: The dictionary, or the plain state_dict. It is changed: a dictionary gets one more entry, a
            state_dict one more line in its ``_metadata``.
        model: The module that it belongs to.
        optimizers: Its optimizers, to keep the names of their parameters in order.
        example: An input of ``forward`` (a tensor, a tuple of arguments or a dict of keyword arguments), for a probe:
            its form is recorded, not its values.

    Returns:
        The same object. Whatever goes wrong is logged and left out: saving never fails because of it.
    """
    recorder = record.Recorder()

    def everything() -> None:
        record.describe_environment(recorder)
        record.describe_model(recorder, model)
        record.describe_training(recorder, model, optimizers)
        record.describe_weights(recorder, recorder.step("integrity", lambda: _state_dict(checkpoint, model)))
        if example is not None:
            from relight.manifest import probing

            recorder.take("probe", lambda: probing.from_example(model, example, sys.modules["torch"]))
        record.put(checkpoint, recorder.text())

    recorder.step("all", everything)
    return checkpoint


def _state_dict(checkpoint: Any, model: Any) -> Mapping[str, Any] | None:
    """The part of a dictionary that holds the model's weights: the one with the model's keys."""
    keys = set(model.state_dict())
    for candidate in (checkpoint, *(v for v in checkpoint.values() if isinstance(v, Mapping))):
        if keys and keys <= set(candidate):
            return {k: candidate[k] for k in keys}
    return None

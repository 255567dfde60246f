"""Putting a manifest together: every part by itself, so that one which fails is left out with the reason."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from relight.core.manifest import KEY, SCHEMA
from relight.core.version import __version__
from relight.manifest.reasons import reason_of

T = TypeVar("T")

LARGEST = 950_000
# What is given up first where a manifest would be too large: what it tells least about.
_EXPENDABLE = ("integrity", "source", "training", "probe")
_log = logging.getLogger("relight")


class Recorder:
    """Collects the parts of a manifest, and the reasons of those that it could not get.

    Attributes:
        parts: What was collected.
        omitted: Part to reason.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        self.omitted: dict[str, str] = {}
        self._told: set[str] = set()

    def step(self, name: str, collect: Callable[[], T]) -> T | None:
        """Run one step. Whatever it raises becomes a reason: no run fails because its description did.

        Args:
            name: The part of the manifest that the step is for.
            collect: Makes it.
        """
        try:
            return collect()
        except Exception as error:
            self.omitted[name] = reason_of(error)
            if name not in self._told:
                self._told.add(name)
                _log.warning("relight: the manifest goes without its %s (%s)", name, self.omitted[name])
            return None

    def take(self, name: str, collect: Callable[[], Any]) -> None:
        """Run one step and keep what it gives under its name."""
        self.omitted.pop(name, None)
        value = self.step(name, collect)
        if value is not None:
            self.parts[name] = value
        else:
            self.parts.pop(name, None)

    def text(self) -> str:
        """The manifest as JSON in ASCII: zipfile and json find it in the raw bytes of a checkpoint."""
        head = {
            "schema": SCHEMA,
            "relight": __version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        parts, omitted = dict(self.parts), dict(self.omitted)
        for name in (None, *_EXPENDABLE):
            if name is not None and parts.pop(name, None) is not None:
                omitted[name] = "too large"
            text = json.dumps({**head, **parts, "omitted": omitted}, separators=(",", ":"))
            if len(text) <= LARGEST:
                return text
        return json.dumps({**head, "omitted": {"all": "too large"}})


def describe_environment(recorder: Recorder) -> None:
    """The parts that belong to the program."""
    from relight.manifest import environment

    recorder.take("environment", lambda: environment.environment(sys.modules.get("torch")))
    recorder.take("command", lambda: environment.command_line([os.path.basename(sys.executable), *sys.argv]))


def describe_model(recorder: Recorder, model: Any) -> None:
    """The parts that belong to the model's make."""
    from relight.manifest import environment, structure

    torch = sys.modules["torch"]
    folder = os.getcwd()

    def show(path: str) -> str:
        shown = os.path.relpath(path, folder)
        return os.path.basename(path) if shown.startswith("..") else shown.replace(os.sep, "/")

    recorder.take("architecture", lambda: structure.structure(model, torch, show))
    recorder.take("distributions", lambda: environment.distributions(recorder.parts.get("architecture")))
    recorder.take("init", lambda: structure.init_facts(model))
    recorder.take("source", lambda: structure.class_digests(model))

    def commit() -> Mapping[str, Any] | None:
        path = structure.class_file(type(model))
        return environment.repository(os.path.dirname(os.path.abspath(path)) if path else folder)

    recorder.take("repository", commit)


def describe_weights(recorder: Recorder, state: Mapping[str, Any] | None, *, every_byte: bool = False) -> None:
    """The part that belongs to the values that are going to be saved."""
    from relight.manifest import integrity

    if state is not None:
        recorder.take("integrity", lambda: integrity.integrity(state, sys.modules["torch"], every_byte=every_byte))


def describe_training(recorder: Recorder, model: Any, optimizers: Any = (), trainer: Any = None) -> None:
    """The part that belongs to the run."""
    from relight.manifest import training

    recorder.take("training", lambda: training.training(model, optimizers, trainer))


def put(checkpoint: Any, text: str) -> None:
    """Lay the manifest into the dictionary that is going to be saved.

    A plain state_dict takes it in its ``_metadata``, which is saved with it and which no loading looks at by key:
    an entry of its own would be an unexpected key.
    """
    metadata = getattr(checkpoint, "_metadata", None)
    if metadata is not None and all(hasattr(v, "shape") for v in checkpoint.values()):
        metadata[KEY] = text
    else:
        checkpoint[KEY] = text

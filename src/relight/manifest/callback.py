"""`CheckpointManifest`: the Lightning callback that describes a run in each checkpoint that it saves."""

from __future__ import annotations

import sys
from typing import Any

from relight.manifest import record

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class CheckpointManifest:
    """Writes into each checkpoint what loading it will need to know: ``Trainer(callbacks=[CheckpointManifest()])``.

    It adds one text under one key, and nothing else to the run: no file, no output, no draw of random numbers. Every
    part is collected by itself; one that fails is logged once and left out with the reason.

    Args:
        integrity: Record a digest of each tensor: of every byte up to 256 MB of weights, of a sample of each tensor
            above; ``"every-byte"`` takes every byte of any size, which costs some 7 % of saving.
        probe: Record what the model answers to a seeded input of the form of the first validation batch.
        example: An input of ``forward`` whose form the probe takes instead.

    Returns:
        An object of a class that is made on the spot: a callback of ``lightning.pytorch``, of ``pytorch_lightning``, or
        of both, whichever this program has imported. Each of them takes its own callbacks only.
    """

    def __new__(cls, *, integrity: bool | str = True, probe: bool = True, example: Any = None) -> CheckpointManifest:  # noqa: D102
        made: CheckpointManifest = object.__new__(_class())
        made.__dict__.update(_fresh({"integrity": integrity, "probe": probe, "example": example}))
        return made

    def __init__(self, **options: Any) -> None:
        """Everything is done in ``__new__``, which has the arguments."""


def _fresh(options: dict[str, Any]) -> dict[str, Any]:
    return {"_options": options, "_recorder": record.Recorder(), "_described": False, "_probing": None, "_met": False}


def _again(options: dict[str, Any]) -> CheckpointManifest:
    return CheckpointManifest(**options)


_made: dict[tuple[type, ...], type] = {}


def _class() -> type:
    bases = tuple(
        found
        for found in (getattr(sys.modules.get(name), "Callback", None) for name in _PACKAGES)
        if isinstance(found, type)
    )
    if bases not in _made:
        _made[bases] = type("CheckpointManifest", (_Hooks, CheckpointManifest, *bases), {"__module__": __name__})
    return _made[bases]


class _Hooks:
    """What Lightning calls. Every body is one step of the recorder: nothing gets out of it."""

    _options: dict[str, Any]
    _recorder: record.Recorder
    _described: bool
    _probing: Any
    _met: bool

    def __reduce__(self) -> tuple[Any, ...]:
        # The class has no name that an import would find, and what was collected belongs to one process.
        return _again, (self._options,)

    def __deepcopy__(self, memo: dict[int, Any]) -> object:
        return _again(self._options)

    def setup(self, trainer: Any, pl_module: Any, stage: Any = None) -> None:
        """Files without the optimizer's state call no callback: they are met where the dictionary is made."""
        self._recorder.step("weights-only files", lambda: self._meet(trainer, pl_module))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Before anything was trained: source files and attributes are those that the run began with."""
        self._recorder.step("architecture", lambda: self._describe(pl_module))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *rest: Any) -> None:
        """Watch which module gets the first batch, and in which form."""
        self._recorder.step("probe", lambda: self._watch(pl_module))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """The first batch is through: nothing is watched any more."""
        self._recorder.step("probe", self._stop_watching)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *rest: Any) -> None:
        """Where there is no validation, the first batch of the training."""
        self._recorder.step("probe", lambda: self._watch(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """As after a batch of the validation."""
        self._recorder.step("probe", self._stop_watching)

    def on_exception(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """The batch that was watched did not come to its end."""
        self._recorder.step("probe", self._stop_watching)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the manifest."""
        if not self._met:  # else it is added at the very end, to what the user's own hooks have made of it
            self._recorder.step("all", lambda: self._add(trainer, pl_module, checkpoint))

    # ------------------------------------------------------------ steps

    def _meet(self, trainer: Any, pl_module: Any) -> None:
        connector = trainer._checkpoint_connector
        original = connector.dump_checkpoint
        if getattr(original, "relight", None) is self:
            return

        def dump_checkpoint(*args: Any, **kwargs: Any) -> Any:
            checkpoint = original(*args, **kwargs)
            if isinstance(checkpoint, dict):
                self._recorder.step("all", lambda: self._add(trainer, pl_module, checkpoint))
            return checkpoint

        dump_checkpoint.relight = self  # type: ignore[attr-defined]
        connector.dump_checkpoint = dump_checkpoint
        self._met = True

    def _describe(self, pl_module: Any) -> None:
        self._described = True
        self._recorder.step("environment", lambda: record.describe_environment(self._recorder))
        self._recorder.step("architecture", lambda: record.describe_model(self._recorder, pl_module))

    def _watch(self, pl_module: Any) -> None:
        if self._probing is not None or not self._options["probe"]:
            return
        from relight.manifest import probing

        self._probing = probing.Watch(sys.modules["torch"])
        self._probing.start(pl_module)

    def _stop_watching(self) -> None:
        if self._probing is not None:
            self._probing.stop()

    def _add(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if not self._described:
            self._describe(pl_module)
        recorder = self._recorder
        recorder.step("training", lambda: record.describe_training(recorder, pl_module, trainer=trainer))
        if self._options["integrity"]:
            every = self._options["integrity"] == "every-byte"
            state = checkpoint.get("state_dict")
            recorder.step("integrity", lambda: record.describe_weights(recorder, state, every_byte=every))
        if self._options["probe"]:
            from relight.manifest import probing

            saved = checkpoint.get("state_dict")
            recorder.take("probe", lambda: probing.probe(pl_module, self._probing, self._options["example"], saved))
        record.put(checkpoint, recorder.text())

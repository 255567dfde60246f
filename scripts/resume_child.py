"""Resume files with the Lightning of this interpreter and say where it starts: ``python resume_child.py JOBS.json``.

A part of check_resume.py that needs no relight, so that any Python from 3.8 on with any Lightning from 1.6 on runs it.
JOBS.json is a list of {"file", "original", "model", "init", "kind"} and has the folder of the models' sources; the
answers go to standard output, one line of JSON each.
"""

import contextlib
import io
import json
import logging
import os
import pickle
import signal
import sys
import tempfile
import types
import warnings

import torch

try:  # as the models of the corpus do
    import pytorch_lightning as pl
except ImportError:
    import lightning.pytorch as pl


class _Stub:
    def __init__(self, *args, **kwargs):
        pass


class _Unpickler(pickle.Unpickler):
    """Reads old files whatever classes they name: only tensors and numbers are compared."""

    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except Exception:
            return _Stub


_reading = types.ModuleType("reading")
_reading.__dict__.update(pickle.__dict__)
_reading.Unpickler = _Unpickler


class _Started(Exception):
    pass


def _late(number, frame):
    raise TimeoutError("at %s:%d" % (frame.f_code.co_filename, frame.f_lineno))


class CountCallback(pl.Callback):
    """As the one that is in the corpus's files."""

    count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def _original(path):
    try:
        return torch.load(path, map_location="cpu", pickle_module=_reading, weights_only=False)
    except TypeError:
        return torch.load(path, map_location="cpu", pickle_module=_reading)


def _same(ours, theirs):
    if isinstance(theirs, torch.Tensor) or isinstance(ours, torch.Tensor):
        a, b = torch.as_tensor(ours), torch.as_tensor(theirs)
        if a.dim() == 0 and b.dim() == 0:  # the step of Adam, once a number
            return float(a) == float(b)
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    return ours == theirs


def _moments(trainer, states):
    """Every tensor of the optimizers' states beside that of the file, in the order of the parameters."""
    if len(trainer.optimizers) != len(states):
        return "another number of optimizers"
    for optimizer, saved in zip(trainer.optimizers, states):
        live = optimizer.state_dict()
        for group, was in zip(live["param_groups"], saved["param_groups"]):
            if group["lr"] != was["lr"]:
                return "lr %r instead of %r" % (group["lr"], was["lr"])
            for ours, theirs in zip(group["params"], was["params"]):
                mine, old = live["state"].get(ours, {}), saved["state"].get(theirs, {})
                if set(mine) != set(old) or not all(_same(mine[k], old[k]) for k in old):
                    return "another state of parameter %s" % ours
    return ""


def _resume(job, models):
    class Probe(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            weights = pl_module.state_dict()
            saved = original["state_dict"]
            answer.update(
                epoch=int(trainer.current_epoch),
                step=int(trainer.global_step),
                weights=set(weights) == set(saved) and all(_same(weights[k], saved[k]) for k in saved),
                moments=_moments(trainer, original["optimizer_states"]),
                restored=counter.count,
            )
            raise _Started

    answer = {}
    original = _original(job["original"])
    counter = CountCallback()
    callbacks = [Probe()]
    if job["kind"] in ("full", "full_step", "modelcheckpoint_file"):
        callbacks += [
            counter,
            pl.callbacks.EarlyStopping(monitor="val_loss", patience=5),
            pl.callbacks.ModelCheckpoint(dirpath="checkpoints", filename="{epoch}", monitor="val_loss", save_last=True),
        ]
    model = getattr(models, job["model"])(**job["init"])
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, max_epochs=9, callbacks=callbacks, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, enable_checkpointing=len(callbacks) > 1,
    )  # fmt: skip
    with contextlib.suppress(_Started):
        trainer.fit(model, ckpt_path=job["file"])
    return answer


def main():
    """Resume them one by one; what raises is an answer as well."""
    with open(sys.argv[1]) as file:
        work = json.load(file)
    sys.path.insert(0, work["sources"])
    module = types.ModuleType("my_callbacks")
    module.CountCallback = CountCallback
    sys.modules["my_callbacks"] = module
    CountCallback.__module__ = "my_callbacks"
    import models

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)  # cores may be shared
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    print(json.dumps({"lightning": pl.__version__, "torch": torch.__version__}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for job in work["jobs"]:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                signal.alarm(60)
                try:
                    answer = _resume(job, models)
                except Exception as error:
                    answer = {"error": "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:200])}
            print(json.dumps(dict(answer, file=job["file"])), flush=True)


if __name__ == "__main__":
    main()

"""Recipes made real: a Lightning class for a `Model`, written as source and imported, and the calls on it."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from relight.core.finding import Prediction, Report, Verdict
from relight.core.target import InitParam, Intent, IntentCall
from relight.rulekit.example import Env, Example, File, Model, Tensor

_SOURCE = '''\
import pytorch_lightning as pl
import torch
from torch import nn

PARAMS = {params!r}
BUFFERS = {buffers!r}
CLASSES = {classes!r}
TIED = {tied!r}
DTYPES = {dtypes!r}


def make(path):
    """The module at a path: a real one of torch where its class matters, else one that only holds its parts."""
    class_path = CLASSES.get(path, "")
    own = {{k.rpartition(".")[2]: s for k, s in PARAMS.items() if k.rpartition(".")[0] == path}}
    if class_path.startswith("torch.nn.modules.batchnorm."):
        return getattr(nn, class_path.rpartition(".")[2])(*own["running_mean"])
    if class_path == "torch.nn.modules.sparse.Embedding":
        return nn.Embedding(*own["weight"])
    if class_path == "torch.nn.modules.linear.Linear":
        return nn.Linear(own["weight"][1], own["weight"][0], bias="bias" in own)
    if class_path == "torch.nn.modules.normalization.LayerNorm":
        return nn.LayerNorm(own["weight"])
    if class_path == "torch.nn.modules.container.Sequential":
        return nn.Sequential()
    if class_path == "torch.nn.modules.activation.MultiheadAttention":
        return nn.MultiheadAttention(own["in_proj_weight"][1], 1, bias="in_proj_bias" in own)
    if any(shape is None for shape in own.values()):
        return nn.LazyLinear((own.get("bias") or (1,))[0], bias="bias" in own)
    assert not class_path.startswith("torch.") or class_path == "torch.nn.modules.module.Module", class_path
    return nn.Module()


class {name}(pl.LightningModule):
    def __init__(self, {arguments}):
        super().__init__()
        modules = {{"": self}}
        for key, shape in PARAMS.items():
            *parents, leaf = key.split(".")
            for i in range(len(parents)):
                path = ".".join(parents[: i + 1])
                if path not in modules:
                    modules[path] = make(path)
                    modules[".".join(parents[:i])].add_module(parents[i], modules[path])
            owner = modules[".".join(parents)]
            if hasattr(owner, leaf) or shape is None:
                continue
            if key in BUFFERS:
                owner.register_buffer(leaf, torch.zeros(shape, dtype=getattr(torch, DTYPES.get(key, "float32"))))
            else:
                tensor = torch.zeros(shape, dtype=getattr(torch, DTYPES.get(key, "float32")))
                owner.register_parameter(leaf, nn.Parameter(tensor))
        for first, *others in TIED:
            tensor = self.get_parameter(first)
            for key in others:
                path, _, leaf = key.rpartition(".")
                setattr(self.get_submodule(path), leaf, tensor)
{strict}
'''

_numbers = itertools.count()


def source_of(model: Model) -> str:
    """A module with the class that the recipe stands for."""
    params = [p if isinstance(p, InitParam) else InitParam(p, True) for p in model.init]
    arguments = [p.name if p.required else f"{p.name}={p.default}" for p in params]
    if model.var_keyword:
        arguments.append("**kwargs")
    strict = "" if model.strict_loading is None else f"        self.strict_loading = {model.strict_loading}"
    return _SOURCE.format(
        name=model.name,
        params=dict(model.params),
        buffers=set(model.buffers),
        classes=dict(model.modules),
        tied=model.tied,
        dtypes=dict(model.dtypes),
        arguments=", ".join(arguments),
        strict=strict,
    )


def import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"real_model_{next(_numbers)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def real_class(model: Model, folder: Path) -> Any:
    """The recipe's class, imported from a file in a folder."""
    path = folder / "models.py"
    path.write_text(source_of(model), encoding="utf-8")
    return getattr(import_file(path), model.name)


def model_for(file: File) -> Model:
    """The model that an example without one is loaded into: it fits the file exactly."""
    if file.content is not None:
        return Model()
    shapes = {k: v.shape if isinstance(v, Tensor) else v for k, v in file.tensors.items()}
    return Model(params={k: s for k, s in shapes.items() if isinstance(s, tuple)}, var_keyword=True)


def with_model(example: Example) -> Example:
    """The same example with a target, so that a verdict is given."""
    return example if example.model is not None else replace(example, model=model_for(example.file))


def can_be_asked(example: Example) -> bool:
    """Whether the environment of the example is the one that tests run in, and the call one that needs no data."""
    return (
        example.env == Env()
        and example.intent.call is not IntentCall.RESUME
        and example.hparams_file is None
        and (example.model is None or (not example.model.on_instance and example.model.kind == "lightning"))
        and (example.model is None or (example.model.failure is None and example.model.rehearsal is None))
    )


@dataclass(frozen=True)
class Outcome:
    """What a call really did: the exception, None for none, and what it gave back."""

    error: BaseException | None
    result: Any = None

    @property
    def exception(self) -> str | None:
        if self.error is None:
            return None
        kind = type(self.error)
        return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"

    def agrees_with(self, prediction: Prediction | None) -> bool:
        if prediction is None or self.error is None:
            return prediction is None and self.error is None
        return self.exception == prediction.exception and prediction.message in str(self.error)

    def __str__(self) -> str:
        return "no exception" if self.error is None else f"{self.exception}: {self.error}"


def holds(report: Report, real: Outcome) -> bool:
    """Whether an answer is what really happened.

    One that says "fails" without saying how is right where it fails; "unknown" promises nothing.
    """
    if report.verdict is Verdict.UNKNOWN and report.prediction is None:
        return True
    if report.verdict is Verdict.FAILS and report.prediction is None:
        return real.error is not None
    return real.agrees_with(report.prediction)


def attempt(function: Any, *args: Any, **kwargs: Any) -> Outcome:
    """Call something; the libraries' own warnings are not what is asked about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Outcome(None, function(*args, **kwargs))
        except Exception as error:
            return Outcome(error)


def load_for_real(cls: Any, path: Path | str, intent: Intent, *, under: str = "state_dict", **init: object) -> Outcome:
    """The call that the intent stands for, with its arguments; ``under`` is where plain torch.load finds the weights."""
    arguments: dict[str, object] = {}
    for name in ("weights_only", "map_location"):
        if getattr(intent, name) is not None:
            arguments[name] = getattr(intent, name)
    if intent.call is IntentCall.LOAD:
        if intent.strict is not None:
            arguments["strict"] = intent.strict
        return attempt(cls.load_from_checkpoint, path, **arguments, **dict.fromkeys(intent.init), **init)
    assert intent.call is IntentCall.WEIGHTS
    return attempt(_torch_load, cls, path, arguments, under, intent.strict is not False)


def _torch_load(cls: Any, path: Path | str, arguments: dict[str, object], under: str, strict: bool) -> Any:
    import inspect

    import torch

    root = torch.load(path, **arguments)
    required = [p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
    model = cls(**dict.fromkeys(n for n in required if n != "kwargs"))
    model.load_state_dict(root.get(under, root), strict=strict)
    return model

"""The question as the user put it, so that every command and line that relight prints works when pasted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from relight.core.target import Intent, IntentCall

LEFT_OUT = object()


def passed(name: str, value: object) -> list[str]:
    """An argument of a constructor as the command line takes it."""
    return ["--init", f"{name}={value}" if isinstance(value, str) else f"{name}={value!r}"]


@dataclass(frozen=True, slots=True)
class History:
    """What the repository of the target's source has that is newer than the file.

    Attributes:
        file: Source file, as the user would name it.
        commits: How many commits changed it since.
        command: Shows them.
    """

    file: str
    commits: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked.

    Attributes:
        path: The checkpoint as given.
        target: ``--target`` as given, None if none.
        intent: How it will be loaded.
        init: ``--init`` values as given, as Python literals where they are.
        hparams_file: ``--hparams-file`` as given.
        class_name: Name of the target's class, where it is known.
        pins: Versions that it is asked for, as ``lightning==1.9.5``; empty for those that are here.
        history: Commits that changed the target's source since the file was written; None where that is not known, or
            there are none.
        prove: Whether the user asked in so many words to replay the manifest's probe.
        renames: (name in the file, name in the model) of modules and tensors, as the user told them for a repair.
    """

    path: str
    target: str | None = None
    intent: Intent = field(default_factory=Intent)
    init: Mapping[str, object] = field(default_factory=dict)
    hparams_file: str | None = None
    class_name: str | None = None
    pins: tuple[str, ...] = ()
    history: History | None = None
    prove: bool = False
    renames: tuple[tuple[str, str], ...] = ()

    def command(self, verb: str, path: str | None = None, *options: str) -> str:
        """A relight command on this question: ``relight check model.ckpt --target load.py:MyModel``."""
        parts = ["relight", verb, path or self.path]
        asks = verb in ("check", "fix")
        if self.target is not None and asks:
            parts += ["--target", self.target]
        if self.intent.call is not IntentCall.LOAD and asks:
            parts += ["--for", self.intent.call.value]
        if verb == "fix":  # which asks the same question again, of the copy as well
            parts += self._arguments_of_the_call()
            parts += [part for pin in self.pins for part in ("--to", pin)]
            parts += [part for old, new in self.renames for part in ("--rename", f"{old}={new}")]
        parts += options
        return " ".join(shlex.quote(p) for p in parts)

    def _arguments_of_the_call(self) -> list[str]:
        intent = self.intent
        out = [] if intent.strict is None else ["--strict" if intent.strict else "--no-strict"]
        if intent.weights_only is not None:
            out.append("--weights-only" if intent.weights_only else "--no-weights-only")
        if intent.map_location is not None:
            out += ["--map-location", intent.map_location]
        if self.hparams_file is not None:
            out += ["--hparams-file", self.hparams_file]
        for name, value in self.init.items():
            out += passed(name, value)
        return out

    def load_call(self, path: str | None = None, /, **changes: object) -> str:
        """The real call with changed arguments: ``MyModel.load_from_checkpoint("model.ckpt", strict=False)``.

        An argument that is changed to `LEFT_OUT` is not passed.
        """
        if self.intent.call is IntentCall.WEIGHTS:
            mine = {"map_location": self.intent.map_location, "weights_only": self.intent.weights_only}
            passed: dict[str, object] = {k: v for k, v in mine.items() if v is not None}
            passed.update({k: v for k, v in changes.items() if k in mine})
            return self.torch_load(path, **{k: v for k, v in passed.items() if v is not LEFT_OUT})
        arguments: dict[str, object] = {}
        if self.intent.map_location is not None:
            arguments["map_location"] = self.intent.map_location
        if self.hparams_file is not None:
            arguments["hparams_file"] = self.hparams_file
        if self.intent.strict is not None:
            arguments["strict"] = self.intent.strict
        if self.intent.weights_only is not None:
            arguments["weights_only"] = self.intent.weights_only
        arguments.update(self.init)
        arguments.update(changes)
        arguments = {name: value for name, value in arguments.items() if value is not LEFT_OUT}
        return f"{self.class_name or 'MyModel'}.load_from_checkpoint({_arguments(path or self.path, arguments)})"

    def torch_load(self, path: str | None = None, /, **arguments: object) -> str:
        """``torch.load("model.ckpt", map_location="cpu")``."""
        return f"torch.load({_arguments(path or self.path, arguments)})"

    def fixed_path(self, word: str = "fixed") -> str:
        """A name for a corrected copy beside the file: ``model.fixed.ckpt``."""
        stem, dot, suffix = self.path.rpartition(".")
        return f"{stem}.{word}.{suffix}" if dot and "/" not in suffix else f"{self.path}.{word}"


class Code:
    """A piece of Python to print as it is inside an argument list (``...``)."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _arguments(path: str, arguments: Mapping[str, object]) -> str:
    return ", ".join([literal(path), *(f"{k}={literal(v)}" for k, v in arguments.items())])


def literal(value: object) -> str:
    """Python source for a value; strings in double quotes as people write them."""
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"').replace("\\'", "'") + '"'
    return repr(value)

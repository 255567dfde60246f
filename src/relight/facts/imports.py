"""The names in a pickle against an environment: importable, absent, blocked by ``weights_only``, or unknown.

Nothing is imported to find out: the standard library is known by version, packages by their metadata, modules by
looking at files on the search path, and the names in a module by parsing its source.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint
from relight.core.objects import Call, Global, ObjectPath, Value, walk
from relight.core.target import Environment, Intent, IntentCall
from relight.facts import data
from relight.facts.versions import at_least
from relight.reader import installed, source_tree

# Names of opcodes that torch reports by number: worth a word in the message.
_STACK_GLOBAL, _PROTO = 0x93, 0x80


Places: TypeAlias = Mapping[str, tuple[ObjectPath, Value]]


class Found(str, Enum):
    """What an environment has for a name."""

    YES = "yes"
    NO_MODULE = "no-module"
    NO_ATTRIBUTE = "no-attribute"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Resolution:
    """One name of the pickle against the environment.

    Attributes:
        ref: The name.
        found: What is there.
        missing_module: The first part of the module path that is not there: what ModuleNotFoundError names.
        file: Source file of the module, where one was found.
        path: First place in the file's objects that needs the name.
        value: The value there that would be constructed.
    """

    ref: Global
    found: Found
    missing_module: str | None = None
    file: str | None = None
    path: ObjectPath | None = None
    value: Value = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why ``weights_only=True`` refuses the stream, and what all it would refuse.

    Attributes:
        names: Every name that is not allowed, in file order.
        opcode: An opcode that the safe unpickler does not know and meets before the first such name; None if it
            reaches the name.
        module_blocked: Whether the first name lies in a module that torch blocks outright.
    """

    names: tuple[Global, ...]
    opcode: int | None = None
    module_blocked: bool = False


def weights_only_in_effect(intent: Intent, environment: Environment) -> bool | None:
    """Whether the call unpickles with ``weights_only=True``; None if the versions are not known."""
    facts = data.load("lightning_behaviour")
    torch_default = at_least(environment.torch, facts["torch_load"]["weights_only_default_since"]["version"])
    if intent.weights_only is not None:
        return intent.weights_only
    if intent.call is IntentCall.WEIGHTS:
        return torch_default
    lightning = at_least(environment.lightning, facts["load_from_checkpoint"]["weights_only_argument_since"]["version"])
    if lightning is False or torch_default is False:
        return False
    return None if lightning is None or torch_default is None else True


def blocked(checkpoint: Checkpoint) -> Blocked | None:
    """What ``weights_only=True`` would refuse in this file; None if it accepts all of it."""
    allowed_data = data.load("weights_only")
    allowed = {*allowed_data["globals"], *allowed_data["registered"]["globals"]}
    if checkpoint.stream is None:
        return None
    names = tuple(g for g in checkpoint.globals if g.full_name not in allowed)
    known = set(allowed_data["opcodes"])
    foreign = [(position, op) for op, position in checkpoint.stream.opcodes.items() if op not in known]
    first_op = min(foreign, default=None)
    first_name = min((g.position for g in names), default=None)
    if first_op is None and first_name is None:
        return None
    opcode = first_op[1] if first_op is not None and (first_name is None or first_op[0] < first_name) else None
    module_blocked = bool(names) and names[0].module in set(allowed_data["blocked_modules"])
    return Blocked(names, opcode, module_blocked)


def uses(checkpoint: Checkpoint) -> Places:
    """For each name, the first place in the objects that needs it, and what would be constructed there."""
    found: dict[str, tuple[ObjectPath, Value]] = {}
    owner: tuple[ObjectPath, Value] = (ObjectPath(), None)
    for path, value in walk(checkpoint.root):
        if isinstance(value, Call):
            owner = (path, value)
            if value.name and value.name not in found:
                found[value.name] = owner
        elif isinstance(value, Global) and value.full_name not in found:
            # A bare class: an argument of the call around it, or a value or key in its own right.
            found[value.full_name] = owner if owner[0] == path and owner[1] is not None else (path, value)
    return found


def resolve(checkpoint: Checkpoint, environment: Environment, main_file: str | None = None) -> Iterator[Resolution]:
    """Look every name of the pickle up in the environment.

    Args:
        checkpoint: The file.
        environment: Where it is loaded.
        main_file: What runs as ``__main__`` there, None if unknown.
    """
    places = uses(checkpoint)
    for ref in checkpoint.globals:
        path, value = places.get(ref.full_name, (None, None))
        found, module, file = _look_up(ref, environment, main_file)
        yield Resolution(ref, found, module, file, path, value)


def _look_up(ref: Global, environment: Environment, main_file: str | None) -> tuple[Found, str | None, str | None]:
    if ref.full_name in data.load("importable")["legacy_patch"]["names"]:
        return Found.YES, None, None
    if ref.module == "__main__":
        if main_file is None:
            return Found.UNKNOWN, None, None
        return _in_file(ref, main_file)
    versioned = _moved(ref, environment)
    if versioned is not None:
        return versioned
    top = ref.module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return Found.YES if environment.python is not None else Found.UNKNOWN, None, None
    where = installed.resolve_module(ref.module, environment)
    if where.status is installed.ModuleStatus.ABSENT and top not in (environment.modules or ()):
        return Found.NO_MODULE, where.missing, None
    if where.status is installed.ModuleStatus.SOURCE and where.path is not None and is_project(where.path):
        return _in_file(ref, where.path)
    if where.status not in (installed.ModuleStatus.UNKNOWN, installed.ModuleStatus.ABSENT):
        return Found.YES, None, where.path
    if environment.modules is not None and top in environment.modules:
        return Found.YES, None, None  # a spec of another machine: what the module offers there is not known
    for entry in data.load("importable")["distributions"]:
        if entry["module"] == top and entry["distribution"] in environment.packages:
            return Found.YES, None, None
    return Found.UNKNOWN, None, None


def _moved(ref: Global, environment: Environment) -> tuple[Found, str | None, str | None] | None:
    """Modules that exist in some versions only."""
    for entry in data.load("importable")["moved"]:
        module = entry["module"]
        if ref.module != module and not ref.module.startswith(module + "."):
            continue
        if "patched_by" in entry:
            return Found.YES, None, None
        if entry.get("only"):
            there = None if environment.python is None else environment.python.startswith(entry["python"] + ".")
        else:
            there = at_least(environment.version(entry["package"]), entry["since"])
        if there is None:
            return Found.UNKNOWN, None, None
        return (Found.YES, None, None) if there else (Found.NO_MODULE, module, None)
    return None


def is_project(file: str) -> bool:
    """Whether a module is the user's own: installed packages are taken as whole (their names move with versions)."""
    return "site-packages" not in file and "dist-packages" not in file


def _in_file(ref: Global, file: str) -> tuple[Found, str | None, str | None]:
    names = source_tree.module_names(file)
    if names is None:
        return Found.UNKNOWN, None, file
    top = ref.name.partition(".")[0]
    return (Found.YES if top in names else Found.NO_ATTRIBUTE), None, file


def folder_of_module(name: str) -> str | None:
    """A folder below the working directory that holds a module of that name: seen, not imported; None if none does."""
    for file in source_tree.SourceTree(".").modules_named(name):
        folder = os.path.dirname(file.removesuffix("/__init__.py"))
        return relative(folder or ".")
    return None


def relative(file: str) -> str:
    """A path as the user would write it: relative to the working directory where it lies below it."""
    path = os.path.relpath(file)
    return file if path.startswith("..") else path

"""The names in a pickle against an environment: importable, absent, blocked by ``weights_only``, or unknown.

Nothing is imported to find out: the standard library is known by version, packages by their metadata, modules by
looking at files on the search path, and the names in a module by parsing its source.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
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
_LONGEST_TEXT = 1 << 20


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
        position: Byte offset of what it refuses first, in the pickle; None if it was made by hand.
    """

    names: tuple[Global, ...]
    opcode: int | None = None
    module_blocked: bool = False
    position: int | None = None


def weights_only_in_effect(intent: Intent, environment: Environment, path: str = "") -> bool | None:
    """Whether the call unpickles with ``weights_only=True``; None if the versions are not known.

    Args:
        intent: The call.
        environment: Where.
        path: What is loaded. For URLs Lightning has another default, the unsafe one.
    """
    facts = data.load("lightning_behaviour")
    torch_default = at_least(environment.torch, facts["torch_load"]["weights_only_default_since"]["version"])
    if intent.weights_only is not None:
        return intent.weights_only
    if intent.call is IntentCall.WEIGHTS:
        return torch_default
    lightning = at_least(environment.lightning, facts["load_from_checkpoint"]["weights_only_argument_since"]["version"])
    if lightning is False or torch_default is False:
        return False
    urls = facts["load_from_checkpoint"]["urls_are_unsafe_by_default"]
    if path.startswith("http") and at_least(environment.lightning, urls["since"]):
        return False
    return None if lightning is None or torch_default is None else True


def blocked(
    checkpoint: Checkpoint, environment: Environment | None = None, types: Iterable[str] = ()
) -> Blocked | None:
    """What ``weights_only=True`` would refuse in this file, besides ``types``; None if it accepts all of it."""
    allowed_data = data.load("weights_only")
    allowed = {*allowed_data["globals"], *allowed_data["registered"]["globals"], *types}
    if checkpoint.stream is None:
        return None
    names = tuple(g for g in checkpoint.globals if g.full_name not in allowed)
    known = set(allowed_data["opcodes"])
    early = data.load("lightning_behaviour")["torch_load"]["early_reader"]
    if environment is not None and at_least(environment.torch, early["before"]) is False:
        known -= set(early["lacks"])
    foreign = [(position, op) for op, position in checkpoint.stream.opcodes.items() if op not in known]
    first_op = min(foreign, default=None)
    first_name = min((g.position for g in names), default=None)
    if first_op is None and first_name is None:
        return None
    opcode = first_op[1] if first_op is not None and (first_name is None or first_op[0] < first_name) else None
    module_blocked = bool(names) and names[0].module in set(allowed_data["blocked_modules"])
    first = first_name if opcode is None or first_op is None else first_op[0]
    return Blocked(names, opcode, module_blocked, first)


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


def resolve(
    checkpoint: Checkpoint, environment: Environment, main_file: str | None = None, *, patched: bool = False
) -> Iterator[Resolution]:
    """Look every name of the pickle up in the environment.

    Args:
        checkpoint: The file.
        environment: Where it is loaded.
        main_file: What runs as ``__main__`` there, None if unknown.
        patched: Whether Lightning unpickles, with what it puts back for files of its older versions.
    """
    places = uses(checkpoint)
    for ref in checkpoint.globals:
        path, value = places.get(ref.full_name, (None, None))
        found, module, file = _look_up(ref, environment, main_file, patched=patched)
        yield Resolution(ref, found, module, file, path, value)


_Answer: TypeAlias = "tuple[Found, str | None, str | None]"


def _look_up(ref: Global, environment: Environment, main_file: str | None, *, patched: bool) -> _Answer:
    if ref.module == "__main__":
        if main_file is None:
            return Found.UNKNOWN, None, None
        return _in_file(ref, main_file)
    versioned = _by_name(ref, environment, patched=patched) or _by_module(ref, environment)
    if versioned is not None:
        return versioned
    module = _redirected(ref.module, environment) if patched else ref.module
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return Found.YES if environment.python is not None else Found.UNKNOWN, None, None
    where = installed.resolve_module(module, environment)
    if where.status is installed.ModuleStatus.ABSENT and top not in (environment.modules or ()):
        return Found.NO_MODULE, where.missing, None
    if where.status is installed.ModuleStatus.ABSENT and environment.search_path and "." in (where.missing or ""):
        # The package is there, and has no such part; unless it makes modules by hand.
        by_hand = _makes_modules(str(where.missing), environment)
        return (Found.UNKNOWN, None, None) if by_hand else (Found.NO_MODULE, where.missing, None)
    if where.status is installed.ModuleStatus.SOURCE and where.path is not None:
        found = _in_file(ref, where.path)
        if is_project(where.path) or found[0] is Found.YES:
            return found
        if found[0] is Found.NO_ATTRIBUTE:
            # Compiled parts of a package may put names into its modules; one without any cannot.
            return (Found.UNKNOWN, None, where.path) if installed.is_compiled(where.path, module) else found
    if where.status not in (installed.ModuleStatus.UNKNOWN, installed.ModuleStatus.ABSENT):
        return Found.YES, None, where.path
    if environment.modules is not None and top in environment.modules:
        return Found.YES, None, None  # a spec of another machine: what the module offers there is not known
    for entry in data.load("importable")["distributions"]:
        if entry["module"] == top and entry["distribution"] in environment.packages:
            return Found.YES, None, None
    return Found.UNKNOWN, None, None


def _by_name(ref: Global, environment: Environment, *, patched: bool) -> _Answer | None:
    """Names that only some versions of their package have, or that Lightning puts back while it unpickles."""
    entry = moved_name(ref)
    if entry is None:
        return None
    module = _redirected(ref.module, environment) if patched else ref.module
    if environment.modules is not None and module.partition(".")[0] not in environment.modules:
        return None  # the package goes by another name here: what it has counts for nothing
    version = _version(entry["package"], environment)
    if version is None:
        return None
    if patched and "patched_since" in entry and at_least(version, entry["patched_since"]):
        return Found.YES, None, None
    return (Found.NO_ATTRIBUTE, None, None) if _is_there(version, entry) is False else None


def distribution(module: str) -> str | None:
    """The package to install for a module, None where the name alone does not tell."""
    top = module.partition(".")[0]
    return next((str(e["distribution"]) for e in data.load("importable")["distributions"] if e["module"] == top), None)


def moved_name(ref: Global) -> dict[str, str] | None:
    """What is known of a name that came or went with a version of its package."""
    return next((dict(e) for e in data.load("importable")["names"] if e["name"] == ref.full_name), None)


def moved_module(module: str) -> dict[str, str] | None:
    """What is known of a module that came or went with a version of its package."""
    for entry in data.load("importable")["moved"]:
        if module == entry["module"] or module.startswith(entry["module"] + "."):
            return dict(entry)
    return None


def _by_module(ref: Global, environment: Environment) -> _Answer | None:
    """Modules that exist in some versions only."""
    entry = moved_module(ref.module)
    if entry is None:
        return None
    if entry.get("only"):
        there = None if environment.python is None else environment.python.startswith(entry["python"] + ".")
    else:
        version = _version(entry["package"], environment)
        if version is None and environment.complete:
            return None  # the package is not there: looking for it says so
        there = _is_there(version, entry)
    if there is None:
        return Found.UNKNOWN, None, None
    return (Found.YES, None, None) if there else (Found.NO_MODULE, entry["module"], None)


def _version(package: str, environment: Environment) -> str | None:
    """Version of a package; Lightning has two names, and its modules under either are of one version."""
    return environment.lightning if package == "pytorch-lightning" else environment.version(package)


def _is_there(version: str | None, entry: Mapping[str, str]) -> bool | None:
    """Whether a version of the package has what came with ``since`` and went with ``until``."""
    answers = []
    if "since" in entry:
        answers.append(at_least(version, entry["since"]))
    if "until" in entry:
        newer = at_least(version, entry["until"])
        answers.append(None if newer is None else not newer)
    return False if False in answers else None if None in answers else True


def _makes_modules(missing: str, environment: Environment) -> bool:
    """Whether a package above a module that is no file puts modules into ``sys.modules`` itself."""
    parts = missing.split(".")
    for depth in range(1, len(parts)):
        path = installed.resolve_module(".".join(parts[:depth]), environment).path
        try:
            with open(path or "", "rb") as file:
                if b"sys.modules" in file.read():
                    return True
        except OSError:
            continue
    return False


def _redirected(module: str, environment: Environment) -> str:
    """The module that Lightning's own unpickler looks in: the unified package stands for ``pytorch_lightning``."""
    rule = data.load("importable")["redirect"]
    old = rule["module"]
    if module != old and not module.startswith(old + "."):
        return module
    standalone = installed.resolve_module(old, environment).status is not installed.ModuleStatus.ABSENT
    if standalone or not at_least(environment.version(rule["package"]), rule["since"]):
        return module
    return str(rule["to"]) + module[len(old) :]


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


def places_of_class(name: str) -> list[str]:
    """Where below the working directory a class or function of that name is defined: parsed, not imported."""
    return [str(c) for c in source_tree.SourceTree(".").classes_named(name)]


def text_of(path: str) -> str | None:
    """A text file of the user's, None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_TEXT)
    except OSError:
        return None


def relative(file: str) -> str:
    """A path as the user would write it: relative to the working directory where it lies below it."""
    path = os.path.relpath(file)
    return file if path.startswith("..") else path

"""What unpickling will raise, first of all: one answer that every rule on the pickle's contents shares."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from relight.core.checkpoint import Checkpoint
from relight.core.finding import Prediction, Stage
from relight.core.objects import Call, Global, Value, walk
from relight.core.target import Environment
from relight.facts import data, imports
from relight.facts.imports import Blocked, Found, Resolution
from relight.facts.lightning import hparam_items, type_name
from relight.facts.versions import at_least
from relight.reader import source_tree


def refusal(blocked: Blocked, call: str) -> Prediction:
    """What the safe unpickler says. Source: torch 2.13, ``_weights_only_unpickler.py``, ``Unpickler.load``."""
    if blocked.opcode is not None:
        message = f"Unsupported operand {blocked.opcode}"
    elif blocked.module_blocked:
        name = blocked.names[0]
        message = f"Trying to load unsupported GLOBAL {name.full_name} whose module {name.module} is blocked."
    else:
        shown = blocked.names[0].full_name.removeprefix("builtins.")
        message = f"Unsupported global: GLOBAL {shown} was not an allowed global by default."
    return Prediction(Stage.UNPICKLE, call, "_pickle.UnpicklingError", message, blocked.position)


def import_error(resolution: Resolution, call: str, environment: Environment) -> Prediction:
    """What the ordinary unpickler says to a name that is not there."""
    if resolution.found is Found.NO_MODULE:
        return Prediction(
            Stage.UNPICKLE,
            call,
            "ModuleNotFoundError",
            f"No module named {resolution.missing_module or resolution.ref.module!r}",
            resolution.ref.position,
        )
    if call == "torch.load" and at_least(environment.lightning, "1.9") and not at_least(environment.lightning, "2.0"):
        # Once imported, this Lightning is the unpickler of every torch.load: _graveyard/legacy_import_unpickler.py.
        message = f"attribute {resolution.ref.name!r}"
    elif call == "torch.load":
        message = f"Can't get attribute {resolution.ref.name!r}"
    else:
        # Lightning's _RedirectingUnpickler is the pure-Python one, whose words differ.
        message = f"has no attribute {resolution.ref.name!r}"
    return Prediction(Stage.UNPICKLE, call, "AttributeError", message, resolution.ref.position)


def bad_enum(resolution: Resolution) -> tuple[Value, tuple[object, ...]] | None:
    """(stored value, values that the class has) where an Enum member in the file is none of the class any more."""
    value = resolution.value
    if resolution.file is None or not isinstance(value, Call) or value.how != "reduce" or len(value.args) != 1:
        return None
    stored = value.args[0]
    if not isinstance(stored, (str, int, float, bool)):
        return None
    values = source_tree.enum_values(resolution.file, resolution.ref.name)
    if values is None or stored in values:
        return None
    return stored, tuple(values)


def foreign_path(resolution: Resolution, environment: Environment) -> bool:
    """Whether a path object would be made that the system there has no class for."""
    if resolution.ref.module not in ("pathlib", "pathlib._local") or environment.platform is None:
        return False
    if not isinstance(resolution.value, Call) or resolution.value.name != resolution.ref.full_name:
        return False  # the class is named, and nothing is made of it
    foreign = "PosixPath" if environment.platform == "win32" else "WindowsPath"
    return resolution.ref.name == foreign


def unsupported_path(resolution: Resolution, environment: Environment, call: str) -> Prediction:
    """What making such a path raises. Source: CPython, Lib/pathlib of 3.11, 3.13 (_abc.py) and 3.14."""
    since = at_least(environment.python, "3.13")
    exception = "pathlib.UnsupportedOperation" if at_least(environment.python, "3.14") else "NotImplementedError"
    if since and exception == "NotImplementedError":
        exception = "pathlib._abc.UnsupportedOperation"
    message = f"cannot instantiate {resolution.ref.name!r} on your system"
    return Prediction(Stage.UNPICKLE, call, exception, message, call_position(resolution))


def call_position(resolution: Resolution) -> int | None:
    """Where a class is called, which is after its name was looked up."""
    return resolution.value.position if isinstance(resolution.value, Call) else None


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of a list for ``torch.serialization.safe_globals``.

    Attributes:
        module: What has to be imported for it, None for a built-in.
        expression: The entry.
    """

    module: str | None
    expression: str


def allow_list(checkpoint: Checkpoint, names: Iterable[Global], environment: Environment) -> list[Allowed] | None:
    """The whole list that makes the safe unpickler accept a file; None where no list does, or none is known.

    torch names one class at a time, and what it suggests registers the name that the class has *here*. A file of
    another numpy or Python has another name for it: those entries say under which name they are meant.
    """
    if any(_cannot_be_allowed(value) for _, value in walk(checkpoint.root)):
        return None
    out = [_entry_for(ref, environment) for ref in names]
    for _, value in walk(checkpoint.root):
        if isinstance(value, Call) and value.name == "numpy.dtype":
            kind = _numpy_type(value)
            if kind is None:
                return None
            out.append(Allowed("numpy", f"numpy.dtypes.{kind}"))
    entries = list(dict.fromkeys(e for e in out if e is not None))
    renamed = any(e.expression.startswith("(") for e in entries)
    if None in out or (renamed and not at_least(environment.torch, "2.6")):
        return None
    return entries


def _cannot_be_allowed(value: Value) -> bool:
    if not isinstance(value, Call) or not value.name:
        return False
    filled = data.load("blocked_causes")["filled_by_pickle"]
    if (value.pairs and value.name not in filled["pairs"]) or (value.items and value.name not in filled["items"]):
        return True
    # What a function makes and then is given a state is of a class that the file does not name.
    maker = value.name.rpartition(".")[2]
    builds = value.how == "reduce" and value.has_state and (maker[:1].islower() or maker.startswith("_"))
    known = ("numpy", "copyreg", "torch", "collections", "functools")
    return builds and value.name.partition(".")[0] not in known


def _numpy_type(dtype: Call) -> str | None:
    code = dtype.args[0] if dtype.args else None
    if not isinstance(code, str):
        return None
    known = data.load("blocked_causes")["numpy_types"]
    found = known["by_code"].get(code.lstrip("<>|=")) or known["by_letter"].get(code.lstrip("<>|=")[:1])
    return None if found is None else str(found)


def _entry_for(ref: Global, environment: Environment) -> Allowed | None:
    if ref.module == "builtins":
        return Allowed(None, ref.name)
    if ref.module == "__main__":
        return Allowed(None, ref.name)  # the script that loads has to define it
    if re.match(r"torch\.optim\.(?!lr_scheduler$|swa_utils$)\w+$", ref.module):
        return Allowed("torch.optim", f"torch.optim.{ref.name}")  # torch/optim/__init__.py deletes its modules' names
    here = ref.module
    if ref.module in ("pathlib", "pathlib._local"):
        if environment.python is None:
            return None
        here = "pathlib._local" if environment.python.startswith("3.13.") else "pathlib"
    elif re.match(r"numpy\._?core\.", ref.module):
        newer = at_least(environment.version("numpy"), "2.0")
        if newer is None:
            return None
        here = re.sub(r"^numpy\._?core", "numpy._core" if newer else "numpy.core", ref.module)
    if here == ref.module:
        return Allowed(here, ref.full_name)
    imported = "pathlib" if here.startswith("pathlib") else here
    return Allowed(imported, f'({imported}.{ref.name}, "{ref.full_name}")')


def is_called(resolution: Resolution) -> bool:
    """Whether unpickling calls a class of the user's with arguments: only running its code shows if it takes them."""
    value = resolution.value
    if resolution.found is not Found.YES or resolution.file is None or not imports.is_project(resolution.file):
        return False
    if not isinstance(value, Call) or value.how != "reduce" or not value.args:
        return False
    return source_tree.enum_values(resolution.file, resolution.ref.name) is None


def cause_of(ref: Global) -> str:
    """Id in the catalogue of failures for a name that is refused."""
    return _entry(ref)["cause"]


def _entry(ref: Global) -> dict[str, str]:
    for entry in data.load("blocked_causes")["patterns"]:
        if re.match(entry["pattern"], ref.full_name):
            return dict(entry)
    raise AssertionError("the last pattern matches everything")


def describe(ref: Global, value: Value) -> str:
    """``an argparse.Namespace (2 values: width, lr)``."""
    if not isinstance(value, Call) or value.name != ref.full_name:
        return f"names {ref.full_name}"
    words = type_name(value)
    article = "an" if words[:1].lower() in "aeio" else "a"
    names = [n for n, _ in hparam_items(value) if not n.startswith("_")]
    if not names:
        return f"{article} {words}"
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{article} {words} ({len(names)} value{'s' if len(names) != 1 else ''}: {shown})"


def vain_advice(prediction: Prediction | None) -> list[str]:
    """A sentence where torch's message ends in an advice that cannot work: the bytes are no checkpoint either way.

    Source: torch 2.13, torch/serialization.py: ``_get_wo_message`` offers ``weights_only=False`` ("will likely
    succeed") whatever the safe unpickler stumbled on, also on the first byte of a web page.
    """
    if prediction is None or "Weights only load failed" not in prediction.message:
        return []
    return ["weights_only=False, which torch's message suggests, cannot help: it cannot be read that way either."]

"""What can be said about a file's intentions: from the names in its pickle and the roles they play.

An answer better than ``unknown`` needs every name to be on the allow-list, in its allowed role.
"""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.dtypes import BY_NAME, dtype_named
from relight.core.objects import Call, Global, Opaque, walk
from relight.core.safety import Safety
from relight.facts import data

# Damage that lets two readers see different things, or that leaves something unread.
_VOUCHLESS = frozenset(ProblemKind) - {
    ProblemKind.COMPRESSED_RECORDS,
    ProblemKind.BYTES_AFTER,
    ProblemKind.LIMIT,
    ProblemKind.UNSUPPORTED,
}


def role(name: str) -> str | None:
    """The role in which a name is allowed; None for names outside the list."""
    for allowed_role, names in data.load("trust")["allowed"].items():
        if name in names:
            return str(allowed_role)
    if name.startswith("torch.") and dtype_named(name) in BY_NAME.values():
        return "constant"
    return None


def is_dangerous(name: str) -> bool:
    """Whether a name is on the danger list: its module or a parent, the builtin, or a step of its path."""
    danger = data.load("trust")["dangerous"]
    parts = name.split(".")
    prefixes = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    if prefixes & set(danger["modules"]) and role(name) is None:
        return True
    if parts[0] == "builtins" and len(parts) > 1 and parts[1] in danger["builtins"]:
        return True
    return any(p in danger["attributes"] for p in parts[1:])


def dangers(checkpoint: Checkpoint) -> Iterator[str]:
    """What in the file is dangerous, in words, in file order."""
    for ref in checkpoint.globals:
        if is_dangerous(ref.full_name):
            yield f"names {ref.full_name}"
    factories = set(data.load("trust")["factories"])
    for path, value in walk(checkpoint.root):
        if isinstance(value, Opaque):
            yield f"{path}: {value.what}"
        if not isinstance(value, Call):
            continue
        if not isinstance(value.callee, Global):
            yield f"{path}: calls something that the file itself computes"
        elif value.name == "collections.defaultdict":
            factory = value.args[0] if value.args else None
            if factory is not None and not (isinstance(factory, Global) and factory.full_name in factories):
                yield f"{path}: a defaultdict that calls {getattr(factory, 'full_name', 'an object')}"
        elif role(value.name) == "storage":
            yield f"{path}: {value.name} is called"


def safety(checkpoint: Checkpoint) -> Safety:
    """The verdict. ``ok`` is never the default: it has to be shown."""
    if next(dangers(checkpoint), None) is not None:
        return Safety.DANGEROUS
    if any(True for _ in checkpoint.problems_of(*_VOUCHLESS)):
        return Safety.MALFORMED
    if any(True for _ in checkpoint.problems_of(ProblemKind.LIMIT)):
        return Safety.LIMIT
    if checkpoint.layout is Layout.SAFETENSORS:
        return Safety.OK
    if checkpoint.stream is None or checkpoint.layout not in (Layout.TORCH_ZIP, Layout.TORCH_LEGACY, Layout.PICKLE):
        return Safety.UNKNOWN
    names = (g.full_name for g in checkpoint.globals)
    known = all(n == "collections.defaultdict" or role(n) is not None for n in names)
    return Safety.OK if known else Safety.UNKNOWN

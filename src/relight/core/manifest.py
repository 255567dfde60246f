"""What a model computes, as far as objects and source show it, and what a manifest says of a run.

The same description is made of the model that was trained, by the callback, and of the model of today, by the process
that builds it. What a file says is read with care: a value of another type than expected is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

SCHEMA = "relight/manifest/1"
# The key in the checkpoint's dictionary; in a plain state_dict, the key in its `_metadata`.
KEY = "relight_manifest"


@dataclass(frozen=True, slots=True)
class ModuleMake:
    """One module, besides its parameters.

    Attributes:
        path: Its name in the model.
        class_path: ``torch.nn.modules.activation.ReLU``.
        package: Top-level package that defines the class; None for the user's own code.
        attributes: Name to text of what it holds besides parameters, buffers and modules.
        extra_repr: What its repr shows in the parentheses.
        hooks: Names of its forward hooks.
        forward: Name of its forward among the functions; None where that is no code of the user's.
    """

    path: str
    class_path: str
    package: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    extra_repr: str = ""
    hooks: tuple[str, ...] = ()
    forward: str | None = None

    @property
    def name(self) -> str:
        """Class name alone."""
        return self.class_path.rpartition(".")[2]

    @property
    def text(self) -> str:
        """As its repr would show it: ``ReLU()``."""
        return f"{self.name}({self.extra_repr})"


@dataclass(frozen=True, slots=True)
class FunctionMake:
    """One function of the user's that a forward reaches.

    Attributes:
        name: ``Net.forward``.
        digest: Of its source without what computes nothing, and without names.
        attributes: Attributes of ``self`` that it looks at, in order.
        calls: Functions of the user's that it calls, in order; None for one whose source was not found.
        statements: Digest and line of each statement.
        line: ``models.py:12``.
    """

    name: str
    digest: str
    attributes: tuple[str, ...] = ()
    calls: tuple[str | None, ...] = ()
    statements: tuple[tuple[str, int], ...] = ()
    line: str | None = None


@dataclass(frozen=True)
class Make:
    """What a model computes, as far as objects and source show it.

    Attributes:
        modules: In order of ``named_modules``.
        functions: By name.
        buffers: Buffers that are not saved: key to dtype and shape.
        buffer_values: A few numbers of what is in them, where that was looked at.
        tied: Names of parameters that are the same tensor.
    """

    modules: tuple[ModuleMake, ...] = ()
    functions: Mapping[str, FunctionMake] = field(default_factory=dict)
    buffers: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    buffer_values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @cached_property
    def by_path(self) -> dict[str, ModuleMake]:
        """Modules by their path."""
        return {m.path: m for m in self.modules}

    def children(self, path: str) -> tuple[str, ...]:
        """Names of the direct children of a module, in order."""
        start = f"{path}." if path else ""
        inside = (m.path[len(start) :] for m in self.modules if m.path.startswith(start) and m.path != path)
        return tuple(name for name in inside if name and "." not in name)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is empty is left out of a module's row."""
        return {
            "modules": [_module_row(m) for m in self.modules],
            "functions": {
                name: {
                    "digest": f.digest,
                    "attributes": list(f.attributes),
                    "calls": list(f.calls),
                    "statements": [list(s) for s in f.statements],
                    "line": f.line,
                }
                for name, f in self.functions.items()
            },
            "buffers": [
                {
                    "key": k,
                    "dtype": d,
                    "shape": list(s),
                    **({"values": [_written(v) for v in self.buffer_values[k]]} if k in self.buffer_values else {}),
                }
                for k, (d, s) in self.buffers.items()
            ],
            "tied": [list(names) for names in self.tied],
        }

    @classmethod
    def from_dict(cls, data: object) -> Make | None:
        """Read the form of `to_dict`; None where it is none."""
        if not isinstance(data, Mapping) or not isinstance(data.get("modules"), list):
            return None
        functions = data.get("functions")
        return cls(
            modules=tuple(m for m in map(_module, data["modules"]) if m is not None),
            functions={
                str(name): made
                for name, made in (
                    (name, _function(str(name), facts))
                    for name, facts in (functions.items() if isinstance(functions, Mapping) else ())
                )
                if made is not None
            },
            buffers={
                str(b["key"]): (str(b.get("dtype")), tuple(n for n in listed(b.get("shape")) if isinstance(n, int)))
                for b in listed(data.get("buffers"))
                if isinstance(b, Mapping) and "key" in b
            },
            tied=tuple(tuple(map(str, listed(names))) for names in listed(data.get("tied"))),
            buffer_values=buffer_values(data.get("buffers")),
        )


def buffer_values(rows: object) -> dict[str, tuple[float, ...]]:
    """The numbers in rows of unsaved buffers, by key."""
    return {
        str(row["key"]): tuple(number(v) for v in row["values"])
        for row in listed(rows)
        if isinstance(row, Mapping) and "key" in row and isinstance(row.get("values"), list)
    }


def number(value: object) -> float:
    """A number of a manifest; what is not finite is written as text."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _module_row(m: ModuleMake) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": m.path,
        "class": m.class_path,
        "package": m.package,
        "attributes": dict(m.attributes),
    }
    if m.extra_repr:
        row["extra_repr"] = m.extra_repr
    if m.hooks:
        row["hooks"] = list(m.hooks)
    if m.forward is not None:
        row["forward"] = m.forward
    return row


def _module(data: object) -> ModuleMake | None:
    if not isinstance(data, Mapping) or not isinstance(data.get("path"), str):
        return None
    package, forward, attributes = data.get("package"), data.get("forward"), data.get("attributes")
    return ModuleMake(
        path=data["path"],
        class_path=str(data.get("class", "")),
        package=package if isinstance(package, str) else None,
        attributes={k: v for k, v in attributes.items() if isinstance(k, str) and isinstance(v, str)}
        if isinstance(attributes, Mapping)
        else {},
        extra_repr=str(data.get("extra_repr", "")),
        hooks=tuple(map(str, listed(data.get("hooks")))),
        forward=forward if isinstance(forward, str) else None,
    )


def _function(name: str, data: object) -> FunctionMake | None:
    if not isinstance(data, Mapping) or not isinstance(data.get("digest"), str):
        return None
    line = data.get("line")
    return FunctionMake(
        name=name,
        digest=data["digest"],
        attributes=tuple(map(str, listed(data.get("attributes")))),
        calls=tuple(c if isinstance(c, str) else None for c in listed(data.get("calls"))),
        statements=tuple(
            (s[0], s[1])
            for s in listed(data.get("statements"))
            if isinstance(s, (list, tuple)) and len(s) == 2 and isinstance(s[0], str) and isinstance(s[1], int)
        ),
        line=line if isinstance(line, str) else None,
    )


def listed(value: object) -> list[Any]:
    """A list as it is, nothing else."""
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of the model and the run that made it.

    Attributes:
        data: The JSON object, as it is in the file.
    """

    data: Mapping[str, Any]

    def part(self, name: str) -> Mapping[str, Any]:
        """One part as a mapping, empty where it is absent or something else."""
        value = self.data.get(name)
        return value if isinstance(value, Mapping) else {}

    @property
    def created(self) -> str | None:
        """When it was written, in UTC."""
        value = self.data.get("created")
        return value if isinstance(value, str) else None

    @property
    def sealed(self) -> str | None:
        """When it was added to a file that was there already, in UTC; None where the training program wrote it."""
        value = self.data.get("sealed")
        return (self.created or "a later day") if isinstance(value, Mapping) else None

    @property
    def verb(self) -> str:
        """What was done when it was written: the file was saved, or sealed later."""
        return "saved" if self.sealed is None else "sealed"

    @property
    def trained(self) -> str:
        """What the model went through before: a manifest that was sealed later knows nothing of the training."""
        return "trained" if self.sealed is None else "sealed"

    def distributions(self, package: str) -> list[str]:
        """By which distributions a package came, whose classes stand in the model."""
        found = [d for d in listed(self.part("distributions").get(package)) if isinstance(d, str)]
        return found or [package.replace("_", "-").lower()]

    @cached_property
    def make(self) -> Make | None:
        """The model; None where that part was left out."""
        return Make.from_dict(self.data.get("architecture"))

    @property
    def packages(self) -> dict[str, str]:
        """Version of every distribution that the program had imported."""
        found = self.part("environment").get("packages")
        items = found.items() if isinstance(found, Mapping) else ()
        return {k: v for k, v in items if isinstance(k, str) and isinstance(v, str)}

    @property
    def commit(self) -> str | None:
        """Commit of the code where files were as committed; None otherwise."""
        value = self.part("repository").get("commit")
        return value if isinstance(value, str) and value.isalnum() else None

    @property
    def omitted(self) -> dict[str, str]:
        """Part to reason of what was left out."""
        return {str(k): str(v) for k, v in self.part("omitted").items()}

"""What a safetensors file cannot hold, as JSON beside it: the tree of pickled values, and which storage is which tensor.

The JSON is read by people and by relight. It says everything that the pickle said and can do nothing: names are texts.
Plain data is written as JSON has it; everything else is an object with one key that starts with ``$``.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value
from relight.repair.pickle_out import Unwritable
from relight.repair.tree_edit import parts_of

SCHEMA = "relight/sidecar/1"
_DEEPEST = 200
_CONTAINERS = (ListNode, DictNode, SetNode, Call, Persistent)


def to_json(root: Value) -> Any:
    """A tree as JSON.

    Raises:
        Unwritable: It is nested deeper than JSON readers go, or holds what nobody can tell.
    """
    return _Writer(root).value(root, 0)


class _Writer:
    def __init__(self, root: Value) -> None:
        self.shared = _shared(root)
        self.numbers: dict[int, int] = {}

    def value(self, value: Any, depth: int) -> Any:
        kind = value.__class__
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is float:
            if math.isfinite(value):
                return value
            return {"$float": struct.pack(">d", value).hex()}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if kind is Global:
            known = value.full_name == value.stored
            return (
                {"$name": [value.module, value.name]} if known else {"$name": [value.module, value.name, value.stored]}
            )
        if kind is Opaque:
            raise Unwritable(value.what)
        if depth > _DEEPEST:
            raise Unwritable(f"values are nested more than {_DEEPEST} deep")
        number = None
        if id(value) in self.shared:
            if id(value) in self.numbers:
                return {"$same": self.numbers[id(value)]}
            number = self.numbers[id(value)] = len(self.numbers)
        out = self.container(value, depth + 1)
        return out if number is None else {"$as": number, "value": out}

    def container(self, value: Any, depth: int) -> Any:
        if isinstance(value, tuple):
            return {"$tuple": [self.value(v, depth) for v in value]}
        if isinstance(value, ListNode):
            return [self.value(v, depth) for v in value.items]
        if isinstance(value, SetNode):
            return {"$frozenset" if value.frozen else "$set": [self.value(v, depth) for v in value.items]}
        if isinstance(value, DictNode):
            keys = [k for k, _ in value.pairs]
            if all(k.__class__ is str and not k.startswith("$") for k in keys) and len(set(keys)) == len(keys):
                return {k: self.value(v, depth) for k, v in value.pairs}
            return {"$dict": self.pairs(value.pairs, depth)}
        if isinstance(value, Persistent):
            return {"$storage": self.value(value.pid, depth)}
        assert isinstance(value, Call)
        out: dict[str, Any] = {
            "$call": self.value(value.callee, depth),
            "args": [self.value(v, depth) for v in value.args],
        }
        if value.how != "reduce":
            out["how"] = value.how
        if value.kwargs:
            out["kwargs"] = self.pairs(value.kwargs, depth)
        if value.pairs:
            out["pairs"] = self.pairs(value.pairs, depth)
        if value.items:
            out["items"] = [self.value(v, depth) for v in value.items]
        if value.has_state:
            out["state"] = self.value(value.state, depth)
        return out

    def pairs(self, pairs: list[tuple[Value, Value]], depth: int) -> list[list[Any]]:
        return [[self.value(k, depth), self.value(v, depth)] for k, v in pairs]


def _shared(root: Value) -> set[int]:
    """Containers that are met more than once, by identity."""
    seen: set[int] = set()
    twice: set[int] = set()
    stack: list[Value] = [root]
    while stack:
        value = stack.pop()
        if not isinstance(value, (*_CONTAINERS, tuple)) or value == ():
            continue
        if id(value) in seen:
            twice.add(id(value))
            continue
        seen.add(id(value))
        stack.extend(parts_of(value))
    return twice


def from_json(data: Any) -> Value:
    """The tree that `to_json` wrote.

    Raises:
        ValueError: It is none.
    """
    try:
        return _Reader().value(data, 0)
    except (TypeError, KeyError, IndexError, struct.error) as error:
        raise ValueError(f"its tree makes no sense: {error}") from None


class _Reader:
    def __init__(self) -> None:
        self.known: dict[int, Value] = {}
        self.names: dict[tuple[str, ...], Global] = {}

    def value(self, data: Any, depth: int, number: int | None = None) -> Value:
        kind = data.__class__
        if data is None or kind is bool or kind is int or kind is float or kind is str:
            return data  # type: ignore[no-any-return]
        if depth > 3 * _DEEPEST:
            raise ValueError("its tree is nested too deep")
        if isinstance(data, list):
            node = self.keep(number, ListNode())
            node.items = self.values(data, depth)
            return node  # type: ignore[no-any-return]
        if not isinstance(data, dict):
            raise ValueError(f"its tree holds {kind.__name__}")
        tag = next(iter(data), "")
        if not tag.startswith("$"):
            mapping = self.keep(number, DictNode())
            mapping.pairs = [(k, self.value(v, depth + 1)) for k, v in data.items()]
            return mapping  # type: ignore[no-any-return]
        return self.tagged(tag, data, depth + 1, number)

    def keep(self, number: int | None, node: Any) -> Any:
        if number is not None:
            self.known[number] = node
        return node

    def values(self, data: Any, depth: int) -> list[Value]:
        if not isinstance(data, list):
            raise ValueError("its tree makes no sense: a list is none")
        return [self.value(v, depth + 1) for v in data]

    def pairs(self, data: Any, depth: int) -> list[tuple[Value, Value]]:
        return [(self.value(k, depth), self.value(v, depth)) for k, v in data]

    def tagged(self, tag: str, data: dict[str, Any], depth: int, number: int | None) -> Value:
        given = data[tag]
        if tag == "$same":
            return self.known[given]
        if tag == "$as":
            if not isinstance(given, int):
                raise ValueError("its tree makes no sense: a number is none")
            return self.value(data["value"], depth, given)
        if tag == "$float":
            (number_,) = struct.unpack(">d", bytes.fromhex(given))
            return float(number_)
        if tag == "$bytes":
            return base64.b64decode(given, validate=True)
        if tag == "$name":
            if not all(isinstance(part, str) for part in given):
                raise ValueError("its tree makes no sense: a name is no text")
            key = tuple(given)
            if key not in self.names:
                self.names[key] = Global(key[0], key[1], 0, key[2] if len(key) > 2 else None)
            return self.names[key]
        if tag == "$tuple":
            return self.keep(number, tuple(self.values(given, depth)))  # type: ignore[no-any-return]
        if tag in ("$set", "$frozenset"):
            members = self.keep(number, SetNode(frozen=tag == "$frozenset"))
            members.items = self.values(given, depth)
            return members  # type: ignore[no-any-return]
        if tag == "$dict":
            mapping = self.keep(number, DictNode())
            mapping.pairs = self.pairs(given, depth)
            return mapping  # type: ignore[no-any-return]
        if tag == "$storage":
            storage = self.keep(number, Persistent(None, 0))
            storage.pid = self.value(given, depth)
            return storage  # type: ignore[no-any-return]
        if tag != "$call":
            raise ValueError(f"its tree holds {tag}")
        how = data.get("how", "reduce")
        if how not in ("reduce", "new", "inst"):
            raise ValueError("its tree makes no sense: a call is made in no known way")
        call = self.keep(number, Call(None, (), how, 0))
        call.callee = self.value(given, depth)
        call.args = tuple(self.values(data["args"], depth))
        call.kwargs = self.pairs(data.get("kwargs", ()), depth)
        call.pairs = self.pairs(data.get("pairs", ()), depth)
        call.items = self.values(data.get("items", []), depth)
        if "state" in data:
            call.has_state, call.state = True, self.value(data["state"], depth)
        return call  # type: ignore[no-any-return]


def lines(data: dict[str, Any]) -> Iterator[str]:
    """JSON of one line per key, and per key of the tree's top."""
    encode = json.JSONEncoder(check_circular=False).encode
    rows = []
    for key, value in data.items():
        if isinstance(value, dict) and value and not next(iter(value)).startswith("$"):
            inner = ",\n".join(f"    {encode(k)}: {encode(v)}" for k, v in value.items())
            rows.append(f"  {encode(key)}: {{\n{inner}\n  }}")
        else:
            rows.append(f"  {encode(key)}: {encode(value)}")
    yield "{\n" + ",\n".join(rows) + "\n}\n"

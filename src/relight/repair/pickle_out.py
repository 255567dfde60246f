"""A tree of pickled values as the bytes of a pickle again: for edits that change its structure.

Only protocol 2 is written, in the opcodes that ``weights_only=True`` reads (torch/_weights_only_unpickler.py, 2.13).
What protocol 2 has no opcode for (bytes, sets) is written as the calls that Python itself writes: `lowered` puts them
into the tree first, so that what is read back is exactly the tree that was written.
"""

from __future__ import annotations

import struct
from typing import Any

from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value

_CONTAINERS = (ListNode, DictNode, SetNode, Call, Persistent)
_DEEPEST = 100  # tuples in tuples
_PYTHON_2 = {"builtins": "__builtin__", "copyreg": "copy_reg"}  # as Python's own pickler writes protocol 2


class Unwritable(ValueError):
    """A value that no pickle of protocol 2 can hold, or that cannot be told from what was read."""


def name_node(full_name: str) -> Global:
    """The node of a name that the file does not have yet."""
    module, _, name = full_name.rpartition(".")
    return Global(module, name, 0, f"{_PYTHON_2.get(module, module)}.{name}")


def lowered(root: Value) -> Value:
    """Replace what protocol 2 has no opcodes for by calls, within the tree; a new root where the root is one.

    Raises:
        Unwritable: Protocol 2 cannot say it.
    """
    done: dict[int, Value] = {}
    names: dict[str, Global] = {}

    def named(full_name: str) -> Global:
        return names.setdefault(full_name, name_node(full_name))

    def low(value: Any, level: int = 0) -> Any:
        """The same value in words of protocol 2; containers are changed when they are reached themselves."""
        kind = value.__class__
        if kind is bytes:
            return Call(named("_codecs.encode"), (value.decode("latin-1"), "latin1"), "reduce", 0)
        if kind is SetNode:
            known = done.get(id(value))
            if known is None:
                name = "builtins.frozenset" if value.frozen else "builtins.set"
                known = done[id(value)] = Call(named(name), (ListNode(value.items),), "reduce", 0)
                keep.append(value)
            return known
        if kind is tuple and value:
            known = done.get(id(value))
            if known is None:
                if level > _DEEPEST:  # recursion; real ones are two or three deep
                    raise Unwritable(f"tuples are nested more than {_DEEPEST} deep")
                parts = tuple(low(v, level + 1) for v in value)
                known = done[id(value)] = value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
                keep.append(value)
            return known
        return value

    keep: list[Any] = []  # whose ids stand in `done`
    root = low(root)
    stack: list[Any] = [root]
    seen: set[int] = set()
    while stack:
        value = stack.pop()
        kind = value.__class__
        if kind not in _CONTAINERS and kind is not tuple:
            if kind is Opaque:
                raise Unwritable(value.what)
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if kind is tuple:
            stack.extend(value)
        elif kind is ListNode:
            value.items = [low(v) for v in value.items]
            stack.extend(value.items)
        elif kind is DictNode:
            value.pairs = [(low(k), low(v)) for k, v in value.pairs]
            for pair in value.pairs:
                stack.extend(pair)
        elif kind is Persistent:
            value.pid = low(value.pid)
            stack.append(value.pid)
        elif kind is Call:
            if value.kwargs:
                _with_keywords(value, named)
            value.args = tuple(low(v) for v in value.args)
            value.items = [low(v) for v in value.items]
            value.pairs = [(low(k), low(v)) for k, v in value.pairs]
            if value.has_state:
                value.state = low(value.state)
                stack.append(value.state)
            stack.append(value.callee)
            stack.extend(value.args)
            stack.extend(value.items)
            for pair in value.pairs:
                stack.extend(pair)
    return root


def _with_keywords(value: Call, named: Any) -> None:
    """NEWOBJ_EX, as Python writes it for protocol 2: ``copyreg.__newobj_ex__(cls, args, kwargs)``."""
    value.args = (value.callee, value.args, DictNode(list(value.kwargs)))
    value.callee, value.how, value.kwargs = named("copyreg.__newobj_ex__"), "reduce", []


def encode(root: Value) -> bytes:
    """The pickle of a tree that `lowered` has been through.

    Raises:
        Unwritable: A value that protocol 2 cannot hold, or a cycle that only pickle's own trick could write.
    """
    return _Encoder().run(root)


class _Encoder:
    """One stream. Works off a stack of steps, so that depth costs no recursion."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[Any, int] = {}
        self.open: set[int] = set()  # calls and tuples that are begun: met again, they are a cycle through arguments
        self.keep: list[Any] = []

    def run(self, root: Value) -> bytes:
        todo: list[tuple[str, Any]] = [("value", root)]
        while todo:
            step, value = todo.pop()
            if step == "value":
                self.value(value, todo)
            elif step == "raw":
                self.out += value
            elif step == "put":
                self.put(id(value), value)
                self.open.discard(id(value))
            else:
                self.fill(value, todo)
        self.out += b"."
        return bytes(self.out)

    def put(self, key: Any, value: Any) -> None:
        index = self.memo[key] = len(self.memo)
        self.keep.append(value)
        self.out += b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)

    def get(self, key: Any) -> bool:
        index = self.memo.get(key)
        if index is None:
            return False
        self.out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def value(self, value: Any, todo: list[tuple[str, Any]]) -> None:
        kind = value.__class__
        if kind is str:
            self.text(value)
        elif kind is int:
            self.integer(value)
        elif kind is tuple:
            self.tuple_(value, todo)
        elif kind is Call:
            self.call(value, todo)
        elif value is None or kind is bool:
            self.out += b"N" if value is None else b"\x88" if value else b"\x89"
        elif kind is float:
            self.out += b"G" + struct.pack(">d", value)
        elif kind is Persistent:
            todo += (("raw", b"Q"), ("value", value.pid))
        elif kind is Global:
            self.name(value)
        elif kind is DictNode or kind is ListNode:
            if not self.get(id(value)):
                self.out += b"}" if kind is DictNode else b"]"
                self.put(id(value), value)
                todo.append(("fill", value))
        else:
            raise Unwritable(f"a value of kind {kind.__name__}")

    def text(self, value: str) -> None:
        if not self.get(value):
            data = value.encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(data)) + data
            self.put(value, value)

    def integer(self, value: int) -> None:
        out = self.out
        if 0 <= value < 256:
            out += b"K" + bytes([value])
        elif 0 <= value < 65536:
            out += b"M" + struct.pack("<H", value)
        elif -(2**31) <= value < 2**31:
            out += b"J" + struct.pack("<i", value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            out += b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data))
            out += data

    def name(self, value: Global) -> None:
        key = (value.stored,)
        if self.get(key):
            return
        module = value.stored[: -len(value.name) - 1] if value.stored.endswith(f".{value.name}") else ""
        name = value.name
        if not module:  # a name of Python 2 that the reader mapped to another
            module, _, name = value.stored.rpartition(".")
        if "." in name or "\n" in value.stored or not module:
            raise Unwritable(f"the name {value.full_name}, which protocol 2 cannot write")
        self.out += b"c" + f"{module}\n{name}\n".encode("utf-8", "surrogatepass")
        self.put(key, value)

    def tuple_(self, value: tuple[Any, ...], todo: list[tuple[str, Any]]) -> None:
        if not value:
            self.out += b")"
            return
        if self.get(id(value)):
            return
        if id(value) in self.open:
            raise Unwritable("a tuple that holds itself")
        self.open.add(id(value))
        short = {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value))
        if short is None:
            self.out += b"("
        todo += (("put", value), ("raw", short or b"t"))
        todo += (("value", v) for v in reversed(value))

    def call(self, value: Call, todo: list[tuple[str, Any]]) -> None:
        if self.get(id(value)):
            return
        if id(value) in self.open:
            raise Unwritable("an object whose arguments hold itself")
        self.open.add(id(value))
        if value.has_state and isinstance(value.state, DictNode) and any(k is None for k, _ in value.state.pairs):
            raise Unwritable("an object whose state was set twice")
        todo += (("fill", value), ("put", value))
        if value.how == "inst":
            self.out += b"("
            todo.append(("raw", b"o"))
            todo += (("value", v) for v in reversed(value.args))
        else:
            todo.append(("raw", b"R" if value.how == "reduce" else b"\x81"))
            todo.append(("value", value.args))
        todo.append(("value", value.callee))

    def fill(self, value: Any, todo: list[tuple[str, Any]]) -> None:
        """What is put into a container or an object once it is there; the last step is pushed first."""
        if isinstance(value, Call) and value.has_state:
            todo += (("raw", b"b"), ("value", value.state))
        pairs = value.pairs if isinstance(value, (DictNode, Call)) else []
        if pairs:
            todo.append(("raw", b"u"))
            for k, v in reversed(pairs):
                todo += (("value", v), ("value", k))
            todo.append(("raw", b"("))
        items = value.items if isinstance(value, (ListNode, Call)) else []
        if items:
            todo.append(("raw", b"e"))
            todo += (("value", v) for v in reversed(items))
            todo.append(("raw", b"("))

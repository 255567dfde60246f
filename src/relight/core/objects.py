"""What a pickle says, as plain values: nothing in here can run, import or be called.

The machine in `relight.reader.pickle_vm` builds these. Atoms (None, bool, int, float, str, bytes) and tuples are
Python's own; containers and everything that a pickle would *construct* are the node classes below. Nodes compare and
hash by identity, so a hostile file cannot make comparing or hashing expensive, and no node has behaviour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = (
    "bool | int | float | str | bytes | tuple[Value, ...] | "
    "ListNode | DictNode | SetNode | Global | Call | Persistent | Opaque | None"
)


class ListNode:
    """A list."""

    __slots__ = ("items",)

    def __init__(self, items: list[Value] | None = None) -> None:
        self.items: list[Value] = [] if items is None else items


class DictNode:
    """A dict as the pairs that the file gives, in order, never hashed; a later pair wins over an equal earlier key."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Value, Value]] | None = None) -> None:
        self.pairs: list[tuple[Value, Value]] = [] if pairs is None else pairs


class SetNode:
    """A set or frozenset, as the items that the file gives."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Value] | None = None, *, frozen: bool = False) -> None:
        self.items: list[Value] = [] if items is None else items
        self.frozen = frozen


class Global:
    """A name that the pickle refers to: ``module.name``. One object per distinct name of a file.

    Attributes:
        module: Module as the pickle means it today: names of Python 2 are mapped as the standard library does.
        name: Qualified name inside the module.
        stored: ``module.name`` as it is written in the file (``__builtin__.long`` for ``builtins.int``).
        position: Byte offset of the first opcode that names it, in its pickle stream.
        count: How often an opcode names it.
    """

    __slots__ = ("count", "module", "name", "position", "stored")

    def __init__(self, module: str, name: str, position: int, stored: str | None = None) -> None:
        self.module = module
        self.name = name
        self.stored = f"{module}.{name}" if stored is None else stored
        self.position = position
        self.count = 1

    @property
    def full_name(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"


class Call:
    """Something that unpickling would construct: a call of a global, and what is then put into the result.

    Attributes:
        callee: What would be called, normally a `Global`.
        args: Its positional arguments.
        kwargs: Its keyword arguments as pairs (NEWOBJ_EX only).
        how: The way: ``reduce`` (``callee(*args)``), ``new`` (``callee.__new__(callee, *args)``) or ``inst``.
        state: Operand of BUILD, or None; ``has_state`` tells the two apart.
        items: What APPENDS would append to it.
        pairs: What SETITEMS would set in it.
        position: Byte offset of the opcode.
    """

    __slots__ = ("args", "callee", "has_state", "how", "items", "kwargs", "pairs", "position", "state")

    def __init__(self, callee: Value, args: tuple[Value, ...], how: str, position: int) -> None:
        self.callee = callee
        self.args = args
        self.kwargs: list[tuple[Value, Value]] = []
        self.how = how
        self.state: Value = None
        self.has_state = False
        self.items: list[Value] = []
        self.pairs: list[tuple[Value, Value]] = []
        self.position = position

    @property
    def name(self) -> str:
        """``module.name`` of the callee, or an empty string when it is computed."""
        return self.callee.full_name if isinstance(self.callee, Global) else ""


class Persistent:
    """A persistent id: for torch, a reference to a storage."""

    __slots__ = ("pid", "position")

    def __init__(self, pid: Value, position: int) -> None:
        self.pid = pid
        self.position = position


class Opaque:
    """A value that no pickle node stands for: an EXT code or an out-of-band buffer.

    Attributes:
        what: In words.
    """

    __slots__ = ("position", "what")

    def __init__(self, what: str, position: int) -> None:
        self.what = what
        self.position = position


class ObjectPath(tuple[object, ...]):
    """Where a value sits: ``$.hyper_parameters["cfg"][0]``. Elements are dict keys, list indices or ``.attribute`` names.

    An attribute (a key of the state that BUILD would set) is written as a string that starts with a dot.
    """

    __slots__ = ()

    def __truediv__(self, element: object) -> ObjectPath:
        """The path of a child."""
        return ObjectPath((*self, element))

    def __str__(self) -> str:
        """``hyper_parameters.args`` where every step is a plain name, ``$`` for the root itself."""
        out: list[str] = []
        for step in self:
            if isinstance(step, str):
                bare = step.removeprefix(".")
                if bare.isidentifier():
                    out.append(f".{bare}" if out else bare)
                else:
                    out.append(f"[{step!r}]")
            else:
                out.append(f"[{step!r}]" if isinstance(step, (int, float, bytes, bool)) else "[...]")
        return "".join(out) or "$"


# What stands for a dict although the pickle constructs it by a call.
MAPPING_CLASSES = frozenset(
    {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "collections.Counter"}
)


def mapping_pairs(value: Value) -> list[tuple[Value, Value]] | None:
    """The pairs of a dict, OrderedDict, defaultdict or Counter; None for anything else.

    An OrderedDict of Python 2 or of protocol 0 carries its items as one list argument; those count too.
    """
    if isinstance(value, DictNode):
        return value.pairs
    if isinstance(value, Call) and value.name in MAPPING_CLASSES:
        if value.args and not value.pairs and isinstance(value.args[0], ListNode):
            return [
                (p[0], p[1]) if isinstance(p, tuple) else (p.items[0], p.items[1])
                for p in value.args[0].items
                if (isinstance(p, tuple) and len(p) == 2) or (isinstance(p, ListNode) and len(p.items) == 2)
            ]
        if value.args and not value.pairs and isinstance(value.args[0], DictNode):
            return value.args[0].pairs
        return value.pairs
    return None


def mapping_get(value: Value, key: str) -> Value | None:
    """The value under a string key of a mapping, the last one as Python would keep it; None if there is none.

    A stored None cannot be told from an absent key here: ask `mapping_has` where that matters.
    """
    for k, v in reversed(mapping_pairs(value) or ()):
        if k == key and isinstance(k, str):
            return v
    return None


def mapping_has(value: Value, key: str) -> bool:
    """Whether a mapping has a string key."""
    return any(isinstance(k, str) and k == key for k, _ in mapping_pairs(value) or ())


def children(value: Value) -> Iterator[tuple[object, Value]]:
    """Direct parts of a value as (step, part): what an `ObjectPath` is extended by.

    Keys of dicts come as parts too (step ``"<key>"``): classes used as keys are real dependencies of a file.
    """
    if isinstance(value, tuple):
        yield from enumerate(value)
    elif isinstance(value, (ListNode, SetNode)):
        yield from enumerate(value.items)
    elif isinstance(value, DictNode):
        for k, v in value.pairs:
            yield _step(k), v
            if not isinstance(k, (str, int)):
                yield "<key>", k
    elif isinstance(value, Call):
        yield "<callee>", value.callee
        yield from (("<args>", a) for a in value.args)
        yield from (("<kwargs>", v) for _, v in value.kwargs)
        yield from enumerate(value.items)
        for k, v in value.pairs:
            yield _step(k), v
            if not isinstance(k, (str, int)):
                yield "<key>", k
        if value.has_state:
            yield from _state_parts(value.state)
    elif isinstance(value, Persistent):
        yield "<pid>", value.pid


def _state_parts(state: Value) -> Iterator[tuple[object, Value]]:
    # State is a dict of attributes, or (dict or None, dict of slots); anything else belongs to a __setstate__.
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        pairs = mapping_pairs(part)
        if pairs is None:
            yield "<state>", part
        else:
            yield from ((f".{k}" if isinstance(k, str) else _step(k), v) for k, v in pairs)


def _step(key: Value) -> object:
    return key if isinstance(key, (str, int, float, bytes)) or key is None else "<key>"


def walk(root: Value, *, limit: int = 5_000_000) -> Iterator[tuple[ObjectPath, Value]]:
    """Every part of a value once, parents first, in file order, with the first path that leads to it.

    Args:
        root: Where to start.
        limit: Parts to visit at most; the walk stops silently there, so a bomb costs bounded time.

    Yields:
        (path, part). Shared parts come once; steps in angle brackets (callee, arguments) are left out of paths.
    """
    seen: set[int] = set()
    stack: list[tuple[ObjectPath, Value]] = [(ObjectPath(), root)]
    while stack and limit > 0:
        path, value = stack.pop()
        if isinstance(value, (tuple, ListNode, DictNode, SetNode, Call, Persistent)):
            if id(value) in seen:
                continue
            seen.add(id(value))
        limit -= 1
        yield path, value
        parts = [
            (path if isinstance(step, str) and step.startswith("<") else path / step, part)
            for step, part in children(value)
        ]
        stack.extend(reversed(parts))


def nodes(root: Value, *, limit: int = 5_000_000) -> Iterator[Call | Persistent | Opaque]:
    """What a value would construct, without paths: several times as fast as `walk`, for asking everything once.

    Args:
        root: Where to start.
        limit: Parts to visit at most.

    Yields:
        Each call, persistent id and opaque value once, in no particular order.
    """
    seen: set[int] = set()
    stack: list[Value] = [root]
    pop, push, extend = stack.pop, stack.append, stack.extend
    while stack and limit > 0:
        value = pop()
        kind = value.__class__
        if kind in _ATOMS:
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        limit -= 1
        if isinstance(value, tuple):
            extend(value)
        elif isinstance(value, (ListNode, SetNode)):
            extend(value.items)
        elif isinstance(value, DictNode):
            for pair in value.pairs:
                extend(pair)
        elif isinstance(value, Call):
            yield value
            extend(value.args)
            if value.callee.__class__ is not Global:
                push(value.callee)
            if value.items:
                extend(value.items)
            for pair in value.pairs:
                extend(pair)
            for pair in value.kwargs:
                extend(pair)
            if value.has_state:
                push(value.state)
        elif isinstance(value, Persistent):
            yield value
            push(value.pid)
        elif isinstance(value, Opaque):
            yield value


_ATOMS = frozenset({type(None), bool, int, float, str, bytes, Global})


def path_of(root: Value, wanted: Value) -> ObjectPath:
    """The first path that leads to a node of a tree; the root's own where there is none."""
    return next((path for path, value in walk(root) if value is wanted), ObjectPath())

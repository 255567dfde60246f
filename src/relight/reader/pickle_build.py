"""What the opcodes of a pickle build, and those opcodes that are too rare for the loop in `pickle_vm`."""

from __future__ import annotations

import _compat_pickle
from collections.abc import Callable
from typing import Any, TypeAlias

from relight.core.checkpoint import Sighting
from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value, mapping_pairs
from relight.reader import pickle_args as arg
from relight.reader.limits import Limits
from relight.reader.pickle_args import malformed, reached
from relight.reader.pickle_depth import CONTAINERS, Depths

Resolve: TypeAlias = "Callable[[Value], Value | None]"

_NESTED = (b"\x80", b"PK\x03\x04")  # how a pickle or an archive inside a byte string starts
_MANY_NESTED = 256
_MANY_SIGHTINGS = 1000
_UNHASHABLE = (ListNode, DictNode)
_LENGTHS = {0x8A: 1, 0x8B: 4, 0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8, 0x8D: 8, 0x55: 1, 0x54: 4}
_SIGNED = frozenset((0x8B, 0x54))
_EXTENSIONS = {0x82: 1, 0x83: 2, 0x84: 4}


class Builder:
    """What one stream builds.

    Args:
        data: Bytes that hold the stream.
        start: Where it begins.
        limits: What it may cost.
        resolve: What a persistent id stands for, where another part of the file says it; None keeps the id.
    """

    def __init__(self, data: bytes, start: int, limits: Limits, resolve: Resolve | None = None) -> None:
        self.data = data
        self.resolve = resolve
        self.start = start
        self.position = start  # behind the argument that was read last
        self.opcode = start  # of the opcode that is being followed
        self.limits = limits
        self.protocol = 0
        self.end: int | None = None
        self.first_use: dict[int, int] = {}
        self.names: dict[str, Global] = {}
        self.calls: list[Call] = []
        self.persistents: list[Persistent] = []
        self.sightings: list[Sighting] = []
        self.nested: list[tuple[int, bytes]] = []
        self.depths = Depths(limits)

    # ------------------------------------------------------------ arguments

    def take(self, position: int, length: int) -> bytes:
        """An argument of a length that the stream claims."""
        arg.check_length(self.data, position, length, self.limits)
        self.position = position + length
        return self.data[position : self.position]

    def sized(self, position: int, width: int, *, signed: bool = False) -> bytes:
        """An argument behind its length field."""
        length = int.from_bytes(self.take(position, width), "little", signed=signed)
        return self.take(position + width, length)

    def line(self, position: int, limit: int | None = None) -> bytes:
        """An argument that a newline ends."""
        end = arg.line_end(self.data, position, self.limits.argument_bytes if limit is None else limit)
        self.position = end + 1
        return self.data[position:end]

    # ------------------------------------------------------------ names

    def name(self, module: str, name: str, at: int) -> Global:
        """The node of a name; Python 2 names are read as the standard library reads them."""
        stored = f"{module}.{name}"
        known = self.names.get(stored)
        if known is not None:
            known.count += 1
            return known
        if len(self.names) >= self.limits.names:
            raise reached(self.limits, "names", f"more than {self.limits.names:,} names")
        if len(stored) > self.limits.name_bytes:
            raise reached(self.limits, "name_bytes", f"a name has {len(stored):,} letters")
        if self.protocol < 3:
            if (module, name) in _compat_pickle.NAME_MAPPING:
                module, name = _compat_pickle.NAME_MAPPING[(module, name)]
            elif module in _compat_pickle.IMPORT_MAPPING:
                module = _compat_pickle.IMPORT_MAPPING[module]
        node = Global(module, name, at - self.start, stored)
        self.names[stored] = node
        return node

    def named(self, module: object, name: object, at: int) -> Value:
        """A name whose parts come from the stack."""
        if isinstance(module, str) and isinstance(name, str):
            return self.name(module, name, at)
        return self.sight("a name that the file computes", at)

    def name_in_lines(self, position: int, at: int) -> Global:
        """A name whose parts are two lines."""
        module = arg.text(self.line(position, self.limits.name_bytes))
        return self.name(module, arg.text(self.line(self.position, self.limits.name_bytes)), at)

    def sight(self, what: str, at: int) -> Opaque:
        """Note what no honest writer does, and go on with a value that stands for nothing."""
        if len(self.sightings) < _MANY_SIGHTINGS:
            self.sightings.append(Sighting(what, at - self.start))
        return Opaque(what, at - self.start)

    # ------------------------------------------------------------ building

    def call(self, callee: Any, args: Any, how: str, at: int) -> Call:
        """REDUCE, NEWOBJ and their kin."""
        if args.__class__ is not tuple:
            raise malformed("a call whose arguments are no tuple")
        node = Call(callee, args, how, at - self.start)
        self.calls.append(node)
        if callee.__class__ is not Global:  # the height of the arguments is looked up through the call
            self.depths.nest_all(node, (args, callee))
        return node

    def persistent(self, pid: Any, at: int) -> Value:
        """BINPERSID and PERSID."""
        node = Persistent(pid, at - self.start)
        self.persistents.append(node)
        if pid.__class__ in CONTAINERS:
            self.depths.nest_all(node, (pid,))
        found = None if self.resolve is None else self.resolve(pid)
        return node if found is None else found

    def set_items(self, target: Any, flat: list[Any]) -> None:
        """SETITEM and SETITEMS: keys and values in turn."""
        if not isinstance(target, (DictNode, Call)):
            raise malformed("items are set in something that is no dict")
        if len(flat) & 1:
            raise malformed("SETITEMS with a key that has no value")
        keys = flat[::2]
        _check_keys(keys)
        target.pairs.extend(zip(keys, flat[1::2], strict=True))
        if not CONTAINERS.isdisjoint(map(type, flat)):
            self.depths.nest_all(target, flat)

    def append(self, target: Any, items: list[Any]) -> None:
        """APPEND, APPENDS and ADDITEMS."""
        if not isinstance(target, (ListNode, SetNode, Call)) or (isinstance(target, SetNode) and target.frozen):
            raise malformed("something is appended to what is no list")
        if isinstance(target, SetNode):
            _check_keys(items)
        target.items.extend(items)
        if not CONTAINERS.isdisjoint(map(type, items)):
            self.depths.nest_all(target, items)

    def build(self, target: Any, state: Any, at: int) -> None:
        """BUILD."""
        if isinstance(target, (Global, Opaque)):
            # No pickler writes that: it changes an object that lives on after loading.
            self.sight("BUILD changes something that the file did not make", at)
            return
        if not isinstance(target, Call):
            if mapping_pairs(state) != []:
                raise malformed("BUILD on a value that has no state")
            return
        if target.has_state:
            # A second BUILD adds to the first: keep both, in order.
            merged = DictNode()
            for part in (target.state, state):
                merged.pairs.extend(part.pairs if isinstance(part, DictNode) else [(None, part)])
            state = merged
        target.state = state
        target.has_state = True
        self.depths.nest_all(target, (state,))

    # ------------------------------------------------------------ rare opcodes

    def from_mark(self, op: int, items: list[Any], stack: list[Any], at: int) -> None:
        """Opcodes that take what lies above the last mark."""
        node: Any
        if op == 0x6C:  # LIST
            node = ListNode(items)
            self.depths.nest_all(node, items)
        elif op == 0x64:  # DICT
            node = DictNode()
            self.set_items(node, items)
        elif op == 0x91:  # FROZENSET
            _check_keys(items)
            node = SetNode(items, frozen=True)
            self.depths.nest_all(node, items)
        elif op == 0x90:  # ADDITEMS
            self.append(stack[-1], items)
            return
        elif op == 0x69:  # INST
            node = self.call(self.name_in_lines(self.position, at), tuple(items), "inst", at)
            self.depths.nest_all(node.args, items)
        else:  # OBJ
            if not items:
                raise malformed("OBJ without a class")
            node = self.call(items[0], tuple(items[1:]), "inst", at)
            self.depths.nest_all(node.args, items)
        stack.append(node)

    def rare(self, op: int, position: int, at: int, stack: list[Any]) -> Any:
        """Opcodes that push one value; leaves `position` behind their argument."""
        self.position = position
        if op in _LENGTHS:
            return self._from_bytes(op, self.sized(position, _LENGTHS[op], signed=op in _SIGNED), at)
        if op == 0x53:  # STRING
            return arg.python2_string(arg.quoted(self.line(position)))
        if op == 0x56:  # UNICODE
            return arg.text(self.line(position), "raw-unicode-escape")
        if op == 0x49:  # INT
            line = self.line(position)
            return line == b"01" if line in (b"00", b"01") else arg.decimal(line)
        if op == 0x4C:  # LONG
            return arg.decimal(self.line(position))
        if op == 0x46:  # FLOAT
            return arg.decimal_float(self.line(position))
        if op == 0x8F:  # EMPTY_SET
            return SetNode()
        if op == 0x92:  # NEWOBJ_EX
            kwargs, args = stack.pop(), stack.pop()
            if not isinstance(kwargs, DictNode):
                raise malformed("NEWOBJ_EX whose keyword arguments are no dict")
            node = self.call(stack.pop(), args, "new", at)
            node.kwargs = list(kwargs.pairs)
            self.depths.nest_all(node, (kwargs,))
            return node
        if op == 0x50:  # PERSID
            return self.persistent(arg.text(self.line(position), "latin-1"), at)
        if op in _EXTENSIONS:  # EXT1, EXT2, EXT4
            code = int.from_bytes(self.take(position, _EXTENSIONS[op]), "little", signed=op == 0x84)
            if code <= 0:
                raise malformed(f"extension code {code}")
            return self.sight(f"extension code {code}: a name from the registry of whoever loads the file", at)
        if op == 0x97:  # NEXT_BUFFER
            raise malformed("it wants a buffer from outside the file")
        if op == 0x98:  # READONLY_BUFFER
            return stack.pop()
        raise malformed(f"byte {op:#04x} is no opcode")

    def _from_bytes(self, op: int, raw: bytes, at: int) -> Any:
        if op in (0x8A, 0x8B):  # LONG1, LONG4
            return arg.integer(raw, self.limits)
        if op == 0x8D:  # BINUNICODE8
            return arg.text(raw)
        if op in (0x54, 0x55):  # BINSTRING, SHORT_BINSTRING
            return arg.python2_string(raw)
        # BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
        if raw.startswith(_NESTED) and len(raw) > 3 and len(self.nested) < _MANY_NESTED:
            self.nested.append((at - self.start, raw))
        return raw


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that Python could not hash: they are never hashed here, but the standard unpickler would."""
    for key in keys:
        if isinstance(key, _UNHASHABLE) or (isinstance(key, SetNode) and not key.frozen):
            raise malformed("a list, dict or set is used as a key")
        if key.__class__ is tuple and any(isinstance(part, _UNHASHABLE) for part in key):
            raise malformed("a list or dict inside a key")

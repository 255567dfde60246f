"""A pickle machine that builds descriptions instead of objects: nothing is imported, called, hashed or compared.

It knows all opcodes of protocols 0 to 5 as CPython's ``pickletools`` documents them, works on one ``bytes`` with
explicit stacks, and never recurses. Whatever goes wrong ends the stream with a `Problem`; all that was read until
then is kept.
"""

from __future__ import annotations

import _compat_pickle
import gc
import struct
import time
from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import Problem, ProblemKind, StreamFacts
from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value
from relight.reader.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one stream says.

    Attributes:
        value: The object on top of the stack at STOP; None when the stream breaks before it.
        globals: Every name, in order of first use.
        stream: Protocol, opcodes used and where the stream ends.
        problems: Why it broke, if it did.
    """

    value: Value
    globals: tuple[Global, ...]
    stream: StreamFacts
    problems: tuple[Problem, ...]


class _Broken(Exception):
    """The stream cannot be followed further."""

    def __init__(self, kind: ProblemKind, message: str, what: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.what = what


def decode(data: bytes, start: int = 0, *, limits: Limits = DEFAULT_LIMITS, record: str | None = None) -> Decoded:
    """Follow one pickle stream.

    Args:
        data: Bytes that hold it.
        start: Where it begins.
        limits: What it may cost.
        record: Name of the archive record, for problems.
    """
    machine = _Machine(data, start, limits)
    problems: list[Problem] = []
    value: Value = None
    # Millions of small objects without cycles: the collector would walk them over and over (5 to 27 % of the time).
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = machine.run()
    except _Broken as error:
        problems.append(_problem(error.kind, str(error), error.what, record, machine.position - start))
    except (IndexError, struct.error):
        # Slices are checked before use; what is left is a stack that is popped further than it was filled.
        kind = ProblemKind.TRUNCATED if machine.position >= len(data) else ProblemKind.PICKLE_MALFORMED
        message = "the pickle ends in the middle" if kind is ProblemKind.TRUNCATED else "the pickle pops an empty stack"
        problems.append(_problem(kind, message, None, record, machine.position - start))
    finally:
        if collecting:
            gc.enable()
    stream = StreamFacts(machine.protocol, machine.first_use, machine.end)
    return Decoded(value, tuple(machine.names.values()), stream, tuple(problems))


def _problem(kind: ProblemKind, message: str, what: str | None, record: str | None, position: int) -> Problem:
    return Problem(kind=kind, message=message, fatal=True, what=what, record=record, position=position)


_MARK = object()
_Any = Any  # the stack holds values and marks; typing each push would cost time in the loop that is all of our time


class _Machine:
    """State of one run."""

    def __init__(self, data: bytes, start: int, limits: Limits) -> None:
        self.data = data
        self.position = start
        self.limits = limits
        self.protocol = 0
        self.first_use: dict[int, int] = {}
        self.names: dict[str, Global] = {}
        self.end: int | None = None
        self._start = start
        # Depth of every container that has one inside; kept beside the nodes so that nodes stay small.
        self._depth: dict[int, int] = {}
        self._keep: list[object] = []

    # ------------------------------------------------------------ arguments

    def _line(self, limit: int) -> bytes:
        """A newline-terminated argument."""
        end = self.data.find(b"\n", self.position, self.position + limit + 1)
        if end < 0:
            if len(self.data) - self.position <= limit:
                self.position = len(self.data)
                raise _Broken(ProblemKind.TRUNCATED, "the pickle ends in the middle of a line")
            raise _Broken(ProblemKind.LIMIT, f"a text argument is longer than {limit} bytes", "argument_bytes")
        line = self.data[self.position : end]
        self.position = end + 1
        return line

    def _bytes(self, length: int) -> bytes:
        """An argument of a length that the stream claims: checked before anything is taken."""
        end = self.position + length
        if length < 0:
            raise _Broken(ProblemKind.PICKLE_MALFORMED, f"an argument claims {length} bytes")
        if end > len(self.data):
            left = len(self.data) - self.position
            raise _Broken(ProblemKind.TRUNCATED, f"an argument claims {length} bytes, {left} are left")
        if length > self.limits.argument_bytes:
            raise _Broken(ProblemKind.LIMIT, f"an argument has {length} bytes", "argument_bytes")
        part = self.data[self.position : end]
        self.position = end
        return part

    def _unpack(self, format_: str, size: int) -> int:
        value: int = struct.unpack(format_, self._bytes(size))[0]
        return value

    def _text(self, raw: bytes, encoding: str = "utf-8") -> str:
        try:
            return str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "a text argument is no valid text") from None

    def _integer(self, raw: bytes) -> int:
        if len(raw) > self.limits.integer_bytes:
            raise _Broken(ProblemKind.LIMIT, f"an integer has {len(raw)} bytes", "integer_bytes")
        return int.from_bytes(raw, "little", signed=True)

    def _decimal(self, line: bytes) -> int:
        digits = line.strip().removesuffix(b"L")
        if len(digits) > 4300:  # what int() itself refuses since 3.11
            raise _Broken(ProblemKind.LIMIT, f"an integer has {len(digits)} digits", "integer_bytes")
        try:
            return int(digits or b"0", 0) if digits[:2].lower() in (b"0x", b"0o", b"0b") else int(digits)
        except ValueError:
            raise _Broken(ProblemKind.PICKLE_MALFORMED, f"no integer: {line[:40]!r}") from None

    def _float(self, line: bytes) -> float:
        try:
            return float(line)
        except ValueError:
            raise _Broken(ProblemKind.PICKLE_MALFORMED, f"no number: {line[:40]!r}") from None

    def _quoted(self, line: bytes) -> bytes:
        """The argument of STRING: a Python literal in quotes, with Python 2 escapes."""
        line = line.rstrip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "a STRING argument without quotes")
        import codecs

        try:
            raw, _ = codecs.escape_decode(line[1:-1])
        except ValueError:
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "a STRING argument with a broken escape") from None
        assert isinstance(raw, bytes)
        return raw

    # ------------------------------------------------------------ names

    def _global(self, module: str, name: str) -> Global:
        """The node of a name; Python 2 names are read as the standard library reads them."""
        stored = f"{module}.{name}"
        known = self.names.get(stored)
        if known is not None:
            known.count += 1
            return known
        if len(self.names) >= self.limits.names:
            raise _Broken(ProblemKind.LIMIT, f"more than {self.limits.names} names", "names")
        if self.protocol < 3:
            if (module, name) in _compat_pickle.NAME_MAPPING:
                module, name = _compat_pickle.NAME_MAPPING[(module, name)]
            elif module in _compat_pickle.IMPORT_MAPPING:
                module = _compat_pickle.IMPORT_MAPPING[module]
        node = Global(module, name, self._opcode_position, stored)
        self.names[stored] = node
        return node

    def _named(self, module: object, name: object) -> Value:
        if isinstance(module, str) and isinstance(name, str):
            if len(module) + len(name) > self.limits.name_bytes:
                raise _Broken(ProblemKind.LIMIT, "a name is too long", "name_bytes")
            return self._global(module, name)
        return Opaque("a name that the file computes", self._opcode_position)

    # ------------------------------------------------------------ depth

    def _nest(self, parent: object, child: object) -> None:
        """Note that a container sits in another; refuse what no real file has."""
        if child.__class__ in _CONTAINERS:
            depth = self._depth.get(id(child), 1) + 1
            if depth > self._depth.get(id(parent), 1):
                if depth > self.limits.nesting:
                    raise _Broken(ProblemKind.LIMIT, f"nested deeper than {self.limits.nesting}", "nesting")
                self._depth[id(parent)] = depth
                self._keep.append(parent)  # an id must not be reused while it is in the table

    def _nest_all(self, parent: object, children: list[_Any] | tuple[_Any, ...]) -> None:
        for child in children:
            if child.__class__ in _CONTAINERS:
                self._nest(parent, child)

    # ------------------------------------------------------------ the loop

    _opcode_position = 0

    def run(self) -> Value:
        """Follow the stream to STOP."""
        data, limits = self.data, self.limits
        size = len(data)
        stack: list[_Any] = []
        marks: list[int] = []
        memo: dict[int, _Any] = {}
        first_use = self.first_use
        push = stack.append
        pop = stack.pop
        count = 0
        deadline = time.monotonic() + limits.seconds

        def pop_mark() -> list[_Any]:
            if not marks:
                raise _Broken(ProblemKind.PICKLE_MALFORMED, "a mark is popped that was never set")
            at = marks.pop()
            if at > len(stack):
                raise _Broken(ProblemKind.PICKLE_MALFORMED, "the stack was popped below a mark")
            items = stack[at:]
            del stack[at:]
            return items

        def put(index: int) -> None:
            if len(memo) >= limits.memo and index not in memo:
                raise _Broken(ProblemKind.LIMIT, f"more than {limits.memo} memo entries", "memo")
            memo[index] = stack[-1]

        def get(index: int) -> None:
            try:
                push(memo[index])
            except KeyError:
                raise _Broken(ProblemKind.PICKLE_MALFORMED, f"memo entry {index} was never put") from None

        while True:
            position = self.position
            if position >= size:
                raise _Broken(ProblemKind.TRUNCATED, "the pickle ends before its STOP")
            op = data[position]
            self._opcode_position = position - self._start
            self.position = position + 1
            count += 1
            if not count & 4095:
                if count > limits.opcodes:
                    raise _Broken(ProblemKind.LIMIT, f"more than {limits.opcodes:,} opcodes", "opcodes")
                if len(stack) > limits.stack:
                    raise _Broken(ProblemKind.LIMIT, f"more than {limits.stack:,} values on the stack", "stack")
                if time.monotonic() > deadline:
                    raise _Broken(ProblemKind.LIMIT, f"longer than {limits.seconds:.0f} seconds", "seconds")
            if op not in first_use:
                first_use[op] = self._opcode_position

            # Ordered by how often torch files use them; each branch names its opcode.
            if op == 0x71:  # BINPUT
                put(data[self.position])
                self.position += 1
            elif op == 0x4B:  # BININT1
                push(data[self.position])
                self.position += 1
            elif op == 0x68:  # BINGET
                index = data[self.position]
                self.position += 1
                get(index)
            elif op == 0x72:  # LONG_BINPUT
                put(self._unpack("<I", 4))
            elif op == 0x6A:  # LONG_BINGET
                get(self._unpack("<I", 4))
            elif op == 0x58:  # BINUNICODE
                push(self._text(self._bytes(self._unpack("<I", 4))))
            elif op == 0x8C:  # SHORT_BINUNICODE
                push(self._text(self._bytes(self._unpack("<B", 1))))
            elif op == 0x28:  # MARK
                if len(marks) >= limits.marks:
                    raise _Broken(ProblemKind.LIMIT, f"more than {limits.marks} open marks", "marks")
                marks.append(len(stack))
            elif op == 0x74:  # TUPLE
                items = tuple(pop_mark())
                self._nest_all(items, items)
                push(items)
            elif op == 0x85:  # TUPLE1
                items = (pop(),)
                self._nest_all(items, items)
                push(items)
            elif op == 0x86:  # TUPLE2
                second = pop()
                items = (pop(), second)
                self._nest_all(items, items)
                push(items)
            elif op == 0x87:  # TUPLE3
                third, second = pop(), pop()
                items = (pop(), second, third)
                self._nest_all(items, items)
                push(items)
            elif op == 0x29:  # EMPTY_TUPLE
                push(())
            elif op == 0x52:  # REDUCE
                args = pop()
                callee = pop()
                push(self._call(callee, args, "reduce"))
            elif op == 0x51:  # BINPERSID
                pid = pop()
                node: _Any = Persistent(pid, self._opcode_position)
                push(node)
            elif op == 0x63:  # GLOBAL
                module = self._text(self._line(limits.name_bytes))
                push(self._global(module, self._text(self._line(limits.name_bytes))))
            elif op == 0x93:  # STACK_GLOBAL
                name = pop()
                push(self._named(pop(), name))
            elif op == 0x89:  # NEWFALSE
                push(False)
            elif op == 0x88:  # NEWTRUE
                push(True)
            elif op == 0x4E:  # NONE
                push(None)
            elif op == 0x7D:  # EMPTY_DICT
                push(DictNode())
            elif op == 0x5D:  # EMPTY_LIST
                push(ListNode())
            elif op == 0x75:  # SETITEMS
                items = pop_mark()
                if len(items) & 1:
                    raise _Broken(ProblemKind.PICKLE_MALFORMED, "SETITEMS with a key that has no value")
                self._set_items(stack[-1], list(zip(items[::2], items[1::2], strict=True)))
            elif op == 0x73:  # SETITEM
                value = pop()
                key = pop()
                self._set_items(stack[-1], [(key, value)])
            elif op == 0x65:  # APPENDS
                items = pop_mark()
                self._append(stack[-1], items)
            elif op == 0x61:  # APPEND
                item = pop()
                self._append(stack[-1], [item])
            elif op == 0x4A:  # BININT
                push(self._unpack("<i", 4))
            elif op == 0x4D:  # BININT2
                push(self._unpack("<H", 2))
            elif op == 0x47:  # BINFLOAT
                push(struct.unpack(">d", self._bytes(8))[0])
            elif op == 0x62:  # BUILD
                state = pop()
                self._build(stack[-1], state)
            elif op == 0x81:  # NEWOBJ
                args = pop()
                callee = pop()
                push(self._call(callee, args, "new"))
            elif op == 0x92:  # NEWOBJ_EX
                kwargs = pop()
                args = pop()
                node = self._call(pop(), args, "new")
                node.kwargs = list(kwargs.pairs) if isinstance(kwargs, DictNode) else [(None, kwargs)]
                push(node)
            elif op == 0x8A:  # LONG1
                push(self._integer(self._bytes(self._unpack("<B", 1))))
            elif op == 0x8B:  # LONG4
                push(self._integer(self._bytes(self._unpack("<i", 4))))
            elif op == 0x94:  # MEMOIZE
                put(len(memo))
            elif op == 0x95:  # FRAME
                length = self._unpack("<Q", 8)
                if length > size - self.position:
                    raise _Broken(
                        ProblemKind.TRUNCATED, f"a frame claims {length} bytes, {size - self.position} are left"
                    )
            elif op == 0x80:  # PROTO
                self.protocol = self._unpack("<B", 1)
                if self.protocol > 5:
                    raise _Broken(ProblemKind.PICKLE_MALFORMED, f"unknown pickle protocol {self.protocol}")
            elif op == 0x2E:  # STOP
                self.end = self.position
                return pop()  # type: ignore[no-any-return]
            elif op == 0x43:  # SHORT_BINBYTES
                push(self._bytes(self._unpack("<B", 1)))
            elif op == 0x42:  # BINBYTES
                push(self._bytes(self._unpack("<I", 4)))
            elif op in (0x8E, 0x96):  # BINBYTES8, BYTEARRAY8
                push(self._bytes(self._unpack("<Q", 8)))
            elif op == 0x8D:  # BINUNICODE8
                push(self._text(self._bytes(self._unpack("<Q", 8))))
            elif op == 0x55:  # SHORT_BINSTRING
                push(self._string(self._bytes(self._unpack("<B", 1))))
            elif op == 0x54:  # BINSTRING
                push(self._string(self._bytes(self._unpack("<i", 4))))
            elif op == 0x53:  # STRING
                push(self._string(self._quoted(self._line(limits.argument_bytes))))
            elif op == 0x56:  # UNICODE
                push(self._text(self._line(limits.argument_bytes), "raw-unicode-escape"))
            elif op == 0x49:  # INT
                line = self._line(limits.argument_bytes)
                push({b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else self._decimal(line))
            elif op == 0x4C:  # LONG
                push(self._decimal(self._line(limits.argument_bytes)))
            elif op == 0x46:  # FLOAT
                push(self._float(self._line(limits.argument_bytes)))
            elif op == 0x6C:  # LIST
                node = ListNode(pop_mark())
                self._nest_all(node, node.items)
                push(node)
            elif op == 0x64:  # DICT
                items = pop_mark()
                node = DictNode()
                self._set_items(node, list(zip(items[::2], items[1::2], strict=False)))
                push(node)
            elif op == 0x8F:  # EMPTY_SET
                push(SetNode())
            elif op == 0x90:  # ADDITEMS
                items = pop_mark()
                self._append(stack[-1], items)
            elif op == 0x91:  # FROZENSET
                node = SetNode(pop_mark(), frozen=True)
                self._nest_all(node, node.items)
                push(node)
            elif op == 0x30:  # POP
                if marks and marks[-1] == len(stack):
                    marks.pop()
                else:
                    pop()
            elif op == 0x31:  # POP_MARK
                pop_mark()
            elif op == 0x32:  # DUP
                push(stack[-1])
            elif op == 0x70:  # PUT
                put(self._decimal(self._line(limits.argument_bytes)))
            elif op == 0x67:  # GET
                get(self._decimal(self._line(limits.argument_bytes)))
            elif op == 0x50:  # PERSID
                line = self._line(limits.argument_bytes)
                push(Persistent(self._text(line, "latin-1"), self._opcode_position))
            elif op == 0x69:  # INST
                module = self._text(self._line(limits.name_bytes))
                node = self._global(module, self._text(self._line(limits.name_bytes)))
                push(self._call(node, tuple(pop_mark()), "inst"))
            elif op == 0x6F:  # OBJ
                items = pop_mark()
                if not items:
                    raise _Broken(ProblemKind.PICKLE_MALFORMED, "OBJ without a class")
                push(self._call(items[0], tuple(items[1:]), "inst"))
            elif op in (0x82, 0x83, 0x84):  # EXT1, EXT2, EXT4
                code = self._unpack({0x82: "<B", 0x83: "<H", 0x84: "<i"}[op], {0x82: 1, 0x83: 2, 0x84: 4}[op])
                push(Opaque(f"extension code {code}: a name from the reader's own registry", self._opcode_position))
            elif op == 0x97:  # NEXT_BUFFER
                push(Opaque("an out-of-band buffer", self._opcode_position))
            elif op == 0x98:  # READONLY_BUFFER
                if not stack:
                    raise _Broken(ProblemKind.PICKLE_MALFORMED, "READONLY_BUFFER on an empty stack")
            else:
                self.position = position
                raise _Broken(ProblemKind.PICKLE_MALFORMED, f"byte {op:#04x} is no opcode")

    # ------------------------------------------------------------ building

    def _string(self, raw: bytes) -> str | bytes:
        # Strings of Python 2: text where it is ASCII, else the bytes, as torch's encoding="utf-8" mostly gives.
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw

    def _call(self, callee: _Any, args: _Any, how: str) -> Call:
        if not isinstance(args, tuple):
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "a call whose arguments are no tuple")
        node = Call(callee, args, how, self._opcode_position)
        self._nest(node, args)
        self._nest(node, callee)
        return node

    def _set_items(self, target: _Any, pairs: list[tuple[_Any, _Any]]) -> None:
        if not isinstance(target, (DictNode, Call)):
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "items are set in something that is no dict")
        target.pairs.extend(pairs)
        for key, value in pairs:
            if key.__class__ in _CONTAINERS:
                self._nest(target, key)
            if value.__class__ in _CONTAINERS:
                self._nest(target, value)

    def _append(self, target: _Any, items: list[_Any]) -> None:
        if not isinstance(target, (ListNode, SetNode, Call)):
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "something is appended to what is no list")
        target.items.extend(items)
        self._nest_all(target, items)

    def _build(self, target: _Any, state: _Any) -> None:
        if not isinstance(target, Call):
            # A class or a plain container as the target: no pickler writes that, and it would change shared objects.
            if isinstance(target, (Global, Persistent, Opaque)):
                raise _Broken(ProblemKind.PICKLE_MALFORMED, "BUILD changes something that the file did not make")
            raise _Broken(ProblemKind.PICKLE_MALFORMED, "BUILD on a value that has no state")
        if target.has_state:
            # A second BUILD adds to the first: keep both, in order.
            merged = DictNode()
            for part in (target.state, state):
                if isinstance(part, DictNode):
                    merged.pairs.extend(part.pairs)
                else:
                    merged.pairs.append((None, part))
            state = merged
        target.state = state
        target.has_state = True
        self._nest(target, state)


_CONTAINERS = frozenset({tuple, ListNode, DictNode, SetNode, Call})

"""A pickle machine that builds descriptions instead of objects: nothing is imported, called, hashed or compared.

It knows all opcodes of protocols 0 to 5 as CPython's ``pickletools`` documents them, works on one ``bytes`` with
explicit stacks, and never recurses. Whatever goes wrong ends the stream with a `Problem`; all that was read until
then is kept. What only a hostile file does (extension codes, computed names) is noted as a `Sighting`, and the
machine goes on: the weights may still be worth having.
"""

from __future__ import annotations

import gc
import struct
import time
from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import Pickled, Problem, ProblemKind, Sighting, StreamFacts
from relight.core.objects import Call, DictNode, Global, ListNode, Persistent, Value
from relight.reader import pickle_args as arg
from relight.reader.limits import DEFAULT_LIMITS, Limits
from relight.reader.pickle_args import Broken, malformed, reached, truncated
from relight.reader.pickle_build import Builder, Resolve
from relight.reader.pickle_depth import CONTAINERS
from relight.reader.pickle_tensor import OPCODES, TensorShortcut


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one stream says.

    Attributes:
        value: The object on top of the stack at STOP; None when the stream breaks before it.
        globals: Every name, in order of first use.
        stream: Protocol, opcodes used and where the stream ends.
        problems: Why it broke, if it did.
        calls: Everything that would be constructed, in order.
        persistents: Persistent ids, in order.
        sightings: What no honest writer does.
        nested: Byte strings that may hold pickles themselves, with their positions.
    """

    value: Value
    globals: tuple[Global, ...]
    stream: StreamFacts
    problems: tuple[Problem, ...]
    calls: tuple[Call, ...] = ()
    persistents: tuple[Persistent, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    nested: tuple[tuple[int, bytes], ...] = ()

    def pickled(self, where: str = "") -> Pickled:
        """The stream as a part of a checkpoint."""
        return Pickled(
            where=where,
            root=self.value,
            globals=self.globals,
            calls=self.calls,
            persistents=self.persistents,
            sightings=self.sightings,
            whole=self.stream.end is not None,
        )


def decode(
    data: bytes,
    start: int = 0,
    *,
    limits: Limits = DEFAULT_LIMITS,
    record: str | None = None,
    resolve: Resolve | None = None,
) -> Decoded:
    """Follow one pickle stream.

    Args:
        data: Bytes that hold it.
        start: Where it begins.
        limits: What it may cost.
        record: Name of the archive record, for problems.
        resolve: What a persistent id stands for, where another part of the file says it; None keeps the id.
    """
    machine = _Machine(data, start, limits, resolve)
    problems: list[Problem] = []
    value: Value = None
    # Millions of small objects without cycles: the collector would walk them over and over (5 to 27 % of the time).
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = machine.run()
        machine.depths.check_late(value)
    except Broken as error:
        value = None
        problems.append(_problem(error.kind, str(error), error.what, record, machine.opcode - start))
    except (IndexError, struct.error) as error:
        # Arguments that the data end before, or a stack that is popped further than it was filled.
        cut = isinstance(error, struct.error) or str(error) == _PAST_THE_BYTES
        kind = ProblemKind.TRUNCATED if cut else ProblemKind.PICKLE_MALFORMED
        message = "the pickle ends in the middle" if cut else "the pickle pops an empty stack"
        problems.append(_problem(kind, message, None, record, machine.opcode - start))
    finally:
        if collecting:
            gc.enable()
    return Decoded(
        value,
        tuple(machine.names.values()),
        StreamFacts(machine.protocol, machine.first_use, None if problems else machine.end),
        tuple(problems),
        tuple(machine.calls),
        tuple(machine.persistents),
        tuple(machine.sightings),
        tuple(machine.nested),
    )


def _problem(kind: ProblemKind, message: str, what: str | None, record: str | None, position: int) -> Problem:
    return Problem(kind=kind, message=message, fatal=True, what=what, record=record, position=position)


_Any = Any  # the stack holds values of all kinds; typing each push would cost time in the loop that is all of our time
_PAST_THE_BYTES = "index out of range"  # what bytes say; lists say "list index out of range" or "pop from empty list"
_BATCH = 4096  # opcodes between two looks at the clock and the counters


class _Machine(Builder):
    """State of one run."""

    # ------------------------------------------------------------ the loop

    def run(self) -> Value:
        """Follow the stream to STOP."""
        data, limits = self.data, self.limits
        size = len(data)
        at = position = self.position
        stack: list[_Any] = []
        marks: list[int] = []
        memo: list[_Any] = []  # entries in the order in which picklers number them: 0, 1, 2, ...
        sparse: dict[int, _Any] = {}  # any others
        push, pop = stack.append, stack.pop
        first_use, start = self.first_use, self.start
        nest_all, fetched = self.depths.nest_all, self.depths.fetched
        containers = CONTAINERS
        longest = limits.argument_bytes
        shortcut = TensorShortcut(self, memo, stack)
        count = 0
        deadline = time.monotonic() + limits.seconds

        def since_mark() -> list[_Any]:
            if not marks:
                raise malformed("a mark is popped that was never set")
            at = marks.pop()
            if at > len(stack):
                raise malformed("the stack was popped below a mark")
            items = stack[at:]
            del stack[at:]
            return items

        def put(index: int) -> None:
            if index < 0:
                raise malformed(f"memo entry {index}")
            if index < len(memo):
                memo[index] = stack[-1]
                return
            if len(memo) + len(sparse) >= limits.memo:
                raise reached(limits, "memo", f"more than {limits.memo:,} memo entries")
            if index == len(memo):
                memo.append(stack[-1])
                sparse.pop(index, None)
            else:
                sparse[index] = stack[-1]

        def get(index: int) -> _Any:
            value = memo[index] if 0 <= index < len(memo) else sparse.get(index, sparse)
            if value is sparse:
                raise malformed(f"memo entry {index} was never put")
            return value

        try:
            while True:
                if count > limits.opcodes:
                    raise reached(limits, "opcodes", f"more than {limits.opcodes:,} opcodes")
                if len(stack) > limits.stack:
                    raise reached(limits, "stack", f"more than {limits.stack:,} values on the stack")
                if time.monotonic() > deadline:
                    raise reached(limits, "seconds", f"longer than {limits.seconds:.0f} seconds")
                count += _BATCH
                for _ in range(_BATCH):
                    at = position
                    if at >= size:
                        self.position = at
                        raise truncated("the pickle ends before its STOP")
                    op = data[at]
                    position += 1
                    if op not in first_use:
                        first_use[op] = at - start

                    # Ordered by how often torch files use them; each branch names its opcode.
                    if op == 0x71:  # BINPUT
                        index = data[position]
                        position += 1
                        if index == len(memo) and not sparse:
                            memo.append(stack[-1])
                        else:
                            put(index)
                    elif op == 0x72:  # LONG_BINPUT
                        if position + 4 > size:
                            raise truncated("the pickle ends in the middle of an argument")
                        index = int.from_bytes(data[position : position + 4], "little")
                        position += 4
                        if index == len(memo) and not sparse and index < limits.memo:
                            memo.append(stack[-1])
                        else:
                            put(index)
                    elif op == 0x4B:  # BININT1
                        push(data[position])
                        position += 1
                    elif op == 0x68:  # BINGET
                        index = data[position]
                        position += 1
                        value = memo[index] if index < len(memo) else get(index)
                        if value.__class__ in containers:
                            fetched.add(id(value))
                        push(value)
                    elif op == 0x6A:  # LONG_BINGET
                        value = get(int.from_bytes(self.take(position, 4), "little"))
                        position += 4
                        if value.__class__ in containers:
                            fetched.add(id(value))
                        push(value)
                    elif op == 0x28:  # MARK
                        if len(marks) >= limits.marks:
                            raise reached(limits, "marks", f"more than {limits.marks:,} open marks")
                        if position < size and data[position] == 0x28 and stack and not sparse:
                            end = shortcut.take(at)
                            if end:
                                position = end
                                count += OPCODES
                                continue
                        marks.append(len(stack))
                    elif op == 0x58:  # BINUNICODE
                        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
                        if end > size or end - position > longest:
                            self.sized(position, 4)  # says what is wrong
                        push(_utf8(data[position + 4 : end]))
                        position = end
                    elif op == 0x74:  # TUPLE
                        if not marks or marks[-1] > len(stack):
                            since_mark()  # says what is wrong
                        index = marks.pop()
                        items = tuple(stack[index:])
                        del stack[index:]
                        if not containers.isdisjoint(map(type, items)):
                            nest_all(items, items)
                        push(items)
                    elif op == 0x85:  # TUPLE1
                        items = (pop(),)
                        if items[0].__class__ in containers:
                            nest_all(items, items)
                        push(items)
                    elif op == 0x86:  # TUPLE2
                        value = pop()
                        items = (pop(), value)
                        if value.__class__ in containers or items[0].__class__ in containers:
                            nest_all(items, items)
                        push(items)
                    elif op == 0x87:  # TUPLE3
                        value, key = pop(), pop()
                        items = (pop(), key, value)
                        if not containers.isdisjoint(map(type, items)):
                            nest_all(items, items)
                        push(items)
                    elif op == 0x52:  # REDUCE
                        items = pop()
                        push(self.call(pop(), items, "reduce", at))
                    elif op == 0x51:  # BINPERSID
                        push(self.persistent(pop(), at))
                    elif op == 0x29:  # EMPTY_TUPLE
                        push(())
                    elif op == 0x89:  # NEWFALSE
                        push(False)
                    elif op == 0x94:  # MEMOIZE
                        put(len(memo) + len(sparse))
                    elif op == 0x8C:  # SHORT_BINUNICODE
                        end = position + 1 + data[position]
                        if end > size:
                            self.sized(position, 1)
                        push(_utf8(data[position + 1 : end]))
                        position = end
                    elif op == 0x4D:  # BININT2
                        push(int.from_bytes(self.take(position, 2), "little"))
                        position += 2
                    elif op == 0x4A:  # BININT
                        push(int.from_bytes(self.take(position, 4), "little", signed=True))
                        position += 4
                    elif op == 0x47:  # BINFLOAT
                        push(struct.unpack_from(">d", data, position)[0])
                        position += 8
                    elif op == 0x93:  # STACK_GLOBAL
                        value = pop()
                        push(self.named(pop(), value, at))
                    elif op == 0x63:  # GLOBAL
                        push(self.name_in_lines(position, at))
                        position = self.position
                    elif op == 0x75:  # SETITEMS
                        parts = since_mark()
                        self.set_items(stack[-1], parts)
                    elif op == 0x73:  # SETITEM
                        value = pop()
                        self.set_items(stack[-2], [pop(), value])
                    elif op == 0x65:  # APPENDS
                        parts = since_mark()
                        self.append(stack[-1], parts)
                    elif op == 0x61:  # APPEND
                        value = pop()
                        self.append(stack[-1], [value])
                    elif op == 0x4E:  # NONE
                        push(None)
                    elif op == 0x88:  # NEWTRUE
                        push(True)
                    elif op == 0x7D:  # EMPTY_DICT
                        push(DictNode())
                    elif op == 0x5D:  # EMPTY_LIST
                        push(ListNode())
                    elif op == 0x62:  # BUILD
                        value = pop()
                        self.build(stack[-1], value, at)
                    elif op == 0x81:  # NEWOBJ
                        items = pop()
                        push(self.call(pop(), items, "new", at))
                    elif op == 0x95:  # FRAME
                        length = int.from_bytes(self.take(position, 8), "little")
                        position += 8
                        if length > size - position:
                            raise truncated(f"a frame claims {length:,} bytes, {size - position:,} are left")
                    elif op == 0x80:  # PROTO
                        self.protocol = data[position]
                        position += 1
                        if self.protocol > 5:
                            raise malformed(f"unknown pickle protocol {self.protocol}")
                    elif op == 0x2E:  # STOP
                        self.position = self.end = position
                        return pop()  # type: ignore[no-any-return]
                    elif op == 0x30:  # POP
                        if marks and marks[-1] == len(stack):
                            marks.pop()
                        else:
                            pop()
                    elif op == 0x31:  # POP_MARK
                        since_mark()
                    elif op == 0x32:  # DUP
                        value = stack[-1]
                        if value.__class__ in containers:
                            fetched.add(id(value))
                        push(value)
                    elif op == 0x70:  # PUT
                        put(arg.decimal(self.line(position)))
                        position = self.position
                    elif op == 0x67:  # GET
                        value = get(arg.decimal(self.line(position)))
                        position = self.position
                        if value.__class__ in containers:
                            fetched.add(id(value))
                        push(value)
                    elif op in _FROM_MARK:
                        self.position = position
                        self.from_mark(op, since_mark(), stack, at)
                        position = self.position
                    else:
                        push(self.rare(op, position, at, stack))
                        position = self.position
        finally:
            self.opcode = at


# Opcodes that take what lies above the last mark, beside TUPLE, APPENDS and SETITEMS.
_FROM_MARK = frozenset((0x6C, 0x64, 0x90, 0x91, 0x69, 0x6F))


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return arg.text(raw)

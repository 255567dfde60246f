"""A short cut through the pickle of a tensor: some thirty opcodes that torch.save writes in one order, read as one.

A checkpoint's pickle is this sequence, once per tensor, and little else. The short cut does exactly what the loop in
`pickle_vm` would do, opcode by opcode, and leaves anything that looks only a little different to it (a test compares
the two). It is taken only after every opcode in it was seen once the ordinary way, so that first uses are right.
"""

from __future__ import annotations

import re
from typing import Any

from relight.core.objects import Call, Global, Persistent
from relight.reader.pickle_build import Builder

_INT = rb"(?:K.|M..|J.{3}[\x00-\x7f])"
_PUT = rb"r(.{4})"
_SIZES = rb"(" + _INT + rb"\x85|" + _INT + rb"{2}\x86|" + _INT + rb"{3}\x87|\(" + _INT + rb"{4,8}t)" + _PUT
# ((storage-text class key put device elements tuple put) persid, offset, sizes put, strides put, False,
#  OrderedDict() put) put, REDUCE put
_TENSOR = re.compile(
    rb"\(\(h(.)h(.)X(.)\x00\x00\x00([0-9]{1,20})"
    + _PUT
    + rb"h(.)("
    + _INT
    + rb")t"
    + _PUT
    + rb"Q("
    + _INT
    + rb")"
    + _SIZES
    + _SIZES
    + rb"\x89h(.)\)R"
    + _PUT
    + rb"t"
    + _PUT
    + rb"R"
    + _PUT,
    re.DOTALL,
)
_ALWAYS = frozenset(b"(hXrtQ\x89)RK")
OPCODES = 30
_PUTS = 7
_INTEGERS = {0x4B: 2, 0x4D: 3, 0x4A: 5}


class TensorShortcut:
    """Reads tensors of one stream in one step each.

    Args:
        machine: What builds.
        memo: Its memo, in order.
        stack: Its stack.
    """

    def __init__(self, machine: Builder, memo: list[Any], stack: list[Any]) -> None:
        self._machine = machine
        self._memo = memo
        self._stack = stack
        self._known: dict[bytes, Any] = {}  # integers and sizes by their bytes; equal ones may be one object
        self._ready = False

    def take(self, at: int) -> int:
        """Read the tensor whose first MARK is at a position; the position behind it, or 0 if it is another thing."""
        machine, memo, stack = self._machine, self._memo, self._stack
        if not self._ready:
            self._ready = machine.first_use.keys() >= _ALWAYS
            if not self._ready:
                return 0
        callee = stack[-1]
        if callee.__class__ is not Global or callee.name != "_rebuild_tensor_v2":
            return 0
        match = _TENSOR.match(machine.data, at)
        if match is None:
            return 0
        (
            text, kind, length, key, put1, device, numel, put2, offset, sizes, put3, strides, put4, ordered, put5, put6,
            put7,
        ) = match.groups()  # fmt: skip
        first = len(memo)
        if first + _PUTS > machine.limits.memo or length[0] != len(key):
            return 0
        expected = b"".join(i.to_bytes(4, "little") for i in range(first, first + _PUTS))
        if put1 + put2 + put3 + put4 + put5 + put6 + put7 != expected:
            return 0
        known = self._known
        try:
            values = known[numel], known[offset], known[sizes], known[strides]
        except KeyError:
            if not all(self._learn(raw) for raw in (numel, offset, sizes, strides)):
                return 0
            values = known[numel], known[offset], known[sizes], known[strides]
        most = max(text[0], kind[0], device[0], ordered[0])
        if most >= first:
            return 0
        container = memo[ordered[0]]
        if container.__class__ is not Global or memo[text[0]] != "storage" or memo[device[0]].__class__ is not str:
            return 0
        storage = memo[kind[0]]
        if storage.__class__ is not Global:
            return 0
        start = machine.start
        name = key.decode()
        pid = ("storage", storage, name, memo[device[0]], values[0])
        persistent = Persistent(pid, match.start(9) - 1 - start)
        hooks = Call(container, (), "reduce", match.start(15) - 2 - start)
        args = (persistent, values[1], values[2], values[3], False, hooks)
        tensor = Call(callee, args, "reduce", match.start(17) - 2 - start)
        machine.persistents.append(persistent)
        machine.calls += (hooks, tensor)
        machine.depths.note(args, 3)
        memo += (name, pid, values[2], values[3], hooks, args, tensor)
        stack[-1] = tensor
        return match.end()

    def _learn(self, raw: bytes) -> bool:
        """Decode an integer, or a tuple of them, unless an opcode in it is new to the stream."""
        seen = self._machine.first_use
        numbers = []
        position = 1 if raw[0] == 0x28 else 0
        while position < len(raw) and raw[position] in _INTEGERS:
            if raw[position] not in seen:
                return False
            end = position + _INTEGERS[raw[position]]
            numbers.append(int.from_bytes(raw[position + 1 : end], "little"))
            position = end
        if position == len(raw):
            self._known[raw] = numbers[0]
        elif raw[position] not in seen:
            return False
        else:
            self._known[raw] = tuple(numbers)
        return True

"""Plain values of a recipe as the bytes of a pickle, written by hand: no object is ever pickled here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from relight.rulekit.example import Obj, Ref, Tensor


class PickleWriter:
    """Writes one stream.

    Args:
        tensor: Called for every `Tensor`; must write the opcodes that rebuild it.
        protocol: 2, or 4, which puts the stream into a frame.
    """

    def __init__(self, tensor: Callable[[PickleWriter, Tensor], None] | None = None, protocol: int = 2) -> None:
        self._out = bytearray()
        self._tensor = tensor
        self._protocol = protocol

    def finish(self) -> bytes:
        """End the stream and give its bytes."""
        body = bytes(self._out) + b"."
        frame = b"\x95" + struct.pack("<Q", len(body)) if self._protocol >= 4 else b""
        return b"\x80" + bytes([self._protocol]) + frame + body

    def raw(self, opcodes: bytes) -> None:
        """Opcodes as they are."""
        self._out += opcodes

    def name(self, full_name: str) -> None:
        """A GLOBAL, under the names that Python 2 knew, as protocol 2 asks for."""
        module, _, name = full_name.rpartition(".")
        module = "__builtin__" if module == "builtins" and self._protocol == 2 else module
        self.raw(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

    def value(self, value: object) -> None:
        """Any value that a recipe may hold.

        Raises:
            TypeError: A value that recipes do not know.
        """
        if value is None or isinstance(value, bool):
            self.raw({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self.raw(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            self.raw(b"X" + struct.pack("<I", len(data)) + data)
        elif isinstance(value, Tensor):
            if self._tensor is None:
                raise TypeError("this stream has no storages for tensors")
            self._tensor(self, value)
        elif isinstance(value, (list, tuple)):
            self.sequence(value, tuple_=isinstance(value, tuple))
        elif isinstance(value, Mapping):
            self.raw(b"}")
            self.items(value)
        elif isinstance(value, Ref):
            self.name(value.name)
        elif isinstance(value, Obj):
            self._object(value)
        else:
            raise TypeError(f"a recipe cannot hold {type(value).__name__}")

    def _integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.raw(b"K" + bytes([value]))
        elif -(2**31) <= value < 2**31:
            self.raw(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.raw(b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data)))
            self.raw(data)

    def sequence(self, values: list[object] | tuple[object, ...], *, tuple_: bool) -> None:
        """A list or a tuple."""
        if tuple_:
            self.raw(b"(")
            for v in values:
                self.value(v)
            self.raw(b"t")
            return
        self.raw(b"](")
        for v in values:
            self.value(v)
        self.raw(b"e")

    def items(self, mapping: Mapping[object, object] | Mapping[str, object]) -> None:
        """SETITEMS of a mapping into what is on top of the stack."""
        self.raw(b"(")
        for k, v in mapping.items():
            self.value(k)
            self.value(v)
        self.raw(b"u")

    def _object(self, obj: Obj) -> None:
        if obj.state is None:
            # A call, as enums, paths and functions are pickled.
            self.name(obj.name)
            self.sequence(obj.args, tuple_=True)
            self.raw(b"R")
            return
        self.name(obj.name)
        self.raw(b")\x81")
        self.raw(b"}")
        self.items(obj.state)
        self.raw(b"b")

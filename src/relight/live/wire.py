"""The form in which a checkpoint's plain data travels to the child process: JSON, read back by `child.Decoder`.

Atoms that JSON has (None, bool, int, str, finite floats) are themselves. Everything else is a list whose first item
is a tag: ``["n", 3]`` refers to node 3 of a table, so shared values stay shared and cycles are no problem. Nothing is
left out and nothing is interpreted here: what a name means is for the child to say, from its own short list.
"""

from __future__ import annotations

import base64
import gc
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from relight.core.checkpoint import Checkpoint
from relight.core.errors import UsageError
from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode

# Bytes longer than this go over as their length only: no constructor decides on a megabyte of a numpy array.
_LONGEST_BYTES = 1 << 20
# A whole number that the child's Python may refuse to parse from decimal (sys.get_int_max_str_digits) goes as hex.
_LARGEST_DECIMAL = 10**4000


class Encoder:
    """Collects the nodes of one table.

    Attributes:
        nodes: The table, JSON-ready.
    """

    def __init__(self) -> None:
        self.nodes: list[list[Any]] = []
        self._index: dict[int, int] = {}
        self._alive: list[object] = []  # ids are only unique while the objects live
        self._open: list[tuple[int, object]] = []

    def encode(self, value: object) -> Any:
        """The JSON form of a symbolic value or of plain Python data.

        Raises:
            UsageError: The value is neither; only for what a caller passes, never for what a file holds.
        """
        encoded = self._reference(value)
        collecting = gc.isenabled()
        gc.disable()  # hundreds of thousands of small lists, none of them garbage: four times as fast
        try:
            while self._open:  # a work list, not recursion: a file may nest as deep as it likes
                index, node = self._open.pop()
                self.nodes[index] = self._body(node)
        finally:
            if collecting:
                gc.enable()
        return encoded

    def _reference(self, value: object) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value) if abs(value) < _LARGEST_DECIMAL else ["i", hex(value)]
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else ["f", repr(float(value))]
        if isinstance(value, complex):
            return ["c", repr(value.real), repr(value.imag)]
        if isinstance(value, (bytes, bytearray)):
            if len(value) > _LONGEST_BYTES:
                return ["z", len(value)]
            return ["b", base64.b64encode(value).decode("ascii")]
        key = id(value)
        if key not in self._index:
            self._index[key] = len(self.nodes)
            self._alive.append(value)
            self._open.append((len(self.nodes), value))
            self.nodes.append([])
        return ["n", self._index[key]]

    def _all(self, values: Iterable[object]) -> list[Any]:
        return [self._reference(v) for v in values]

    def _pairs(self, pairs: Iterable[tuple[object, object]]) -> list[list[Any]]:
        return [[self._reference(k), self._reference(v)] for k, v in pairs]

    def _body(self, node: object) -> list[Any]:
        if isinstance(node, Global):
            return ["global", node.module, node.name]
        if isinstance(node, Call):
            return [
                "call",
                self._reference(node.callee),
                self._all(node.args),
                self._pairs(node.kwargs),
                node.how,
                node.has_state,
                self._reference(node.state),
                self._all(node.items),
                self._pairs(node.pairs),
            ]
        if isinstance(node, tuple):
            return ["tuple", self._all(node)]
        if isinstance(node, ListNode):
            return ["list", self._all(node.items)]
        if isinstance(node, DictNode):
            return ["dict", self._pairs(node.pairs)]
        if isinstance(node, SetNode):
            return ["set", self._all(node.items), node.frozen]
        if isinstance(node, Persistent):
            return ["pid", self._reference(node.pid)]
        if isinstance(node, Opaque):
            return ["opaque", node.what]
        # Plain Python data, from the caller.
        if isinstance(node, list):
            return ["list", self._all(node)]
        if isinstance(node, Mapping):
            return ["dict", self._pairs(node.items())]
        if isinstance(node, (set, frozenset)):
            return ["set", self._all(node), isinstance(node, frozenset)]
        if isinstance(node, PurePath):
            return ["path", str(node)]
        raise UsageError(
            f"an argument of type {type(node).__qualname__} cannot be passed to the process that builds the model",
            "pass plain values (numbers, strings, lists, dicts, paths), or use a factory: --target module:build_model",
        )


def encode_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the child needs to know of a checkpoint: its objects, and its state_dict as names, types and sizes."""
    has_root = checkpoint.stream is not None
    encoder = Encoder()
    root = encoder.encode(checkpoint.root) if has_root else None
    path = checkpoint.state_dict_path if has_root else None
    return {
        "root": root,
        "has_root": has_root,
        "state_dict_path": None if path is None else [encoder.encode(step) for step in path],
        "tensors": None if has_root else [[t.key, t.dtype, list(t.shape)] for t in checkpoint.tensors],
        "nodes": encoder.nodes,
    }


def encode_arguments(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Keyword arguments that the caller passes.

    Raises:
        UsageError: One of them is not plain data.
    """
    encoder = Encoder()
    return {"values": {str(k): encoder.encode(v) for k, v in arguments.items()}, "nodes": encoder.nodes}

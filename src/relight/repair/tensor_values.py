"""Turning, cutting and putting together tensors without torch: as other views where that does it, else as new bytes.

A turned or cut tensor is the same storage with other strides and another offset, which torch loads as it is: no byte
is read. Only what is put together gets a storage of its own, written in one piece, so memory is bounded by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from relight.core.checkpoint import TensorEntry
from relight.core.dtypes import BY_NAME


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as a part of a storage.

    Attributes:
        entry: What it is a view of: dtype, storage and device.
        shape: Sizes.
        stride: Strides in elements.
        offset: First element in the storage.
    """

    entry: TensorEntry
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie one after the other."""
        return all(n == 1 or s == w for n, s, w in zip(self.shape, self.stride, strides(self.shape), strict=True))


@dataclass(frozen=True, slots=True)
class Joined:
    """A tensor that needs bytes of its own.

    Attributes:
        parts: What it is made of.
        shape: Sizes.
        dim: Along which dimension the parts lie.
    """

    parts: tuple[View | Joined, ...]
    shape: tuple[int, ...]
    dim: int


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, as torch gives them."""
    out = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        out[i] = out[i + 1] * max(shape[i + 1], 1)
    return tuple(out)


def view_of(entry: TensorEntry) -> View:
    """The tensor itself."""
    return View(entry, entry.shape, entry.stride, entry.offset)


def converted(entries: Sequence[TensorEntry], op: str, shape: tuple[int, ...]) -> View | Joined:
    """What an op makes of tensors.

    Args:
        entries: The sources, in order.
        op: As `relight.facts.mapper.pairs.Pair` writes it.
        shape: What comes out.

    Raises:
        ValueError: The op invents values, or does not give that shape.
    """
    if not entries or len({e.dtype for e in entries}) != 1:
        raise ValueError("its parts have different dtypes")
    values: list[View | Joined] = [view_of(e) for e in entries]
    try:
        for step in op.split("+"):
            values = [_apply(step, values, shape)]
    except (IndexError, ZeroDivisionError):
        raise ValueError(f"{op} is nothing that can be done to it") from None
    if values[0].shape != shape:
        raise ValueError(f"{op} gives {list(values[0].shape)}, not {list(shape)}")
    return values[0]


def _apply(step: str, values: Sequence[View | Joined], shape: tuple[int, ...]) -> View | Joined:
    op, *how = step.split(":")
    first = values[0]
    if op in ("concat", "stack", "stack2"):
        return _put_together(op, int(how[0]), values)
    if len(values) != 1:
        raise ValueError(f"{op} takes one tensor")
    if op == "copy":
        return first
    if op == "own":  # the same values in a storage of its own
        return Joined((first,), first.shape, -1)
    if isinstance(first, Joined):
        # Parts that are turned before they are put together: the dimension turns with them.
        if op == "transpose":
            parts = tuple(_apply(step, (p,), ()) for p in first.parts)
            return Joined(parts, first.shape[::-1], len(first.shape) - 1 - first.dim)
        if op == "reshape" and _is_outermost(first):
            return Joined(first.parts, shape, -1)
        raise ValueError(f"{op} of tensors that are put together")
    if op == "transpose":
        return replace(first, shape=first.shape[::-1], stride=first.stride[::-1])
    if op == "reshape":
        if math.prod(first.shape) != math.prod(shape):
            raise ValueError(f"{list(first.shape)} cannot become {list(shape)}")
        # A turned tensor has to be laid out first: one part, put together with nothing.
        if not first.contiguous:
            return Joined((first,), shape, -1)
        return replace(first, shape=shape, stride=strides(shape))
    if op in ("split", "slice"):
        dim = int(how[0])
        if op == "split":
            number, count = map(int, how[1].split("/"))
            size, rest = divmod(first.shape[dim], count)
            if rest or not 0 <= number < count:
                raise ValueError(f"{first.shape[dim]} cannot be cut into {count}")
            start = number * size
        else:
            start, size = int(how[1]), int(how[2]) - int(how[1])
        if start < 0 or size < 0 or start + size > first.shape[dim]:
            raise ValueError(f"it has no part from {start} on, {size} long")
        sizes = (*first.shape[:dim], size, *first.shape[dim + 1 :])
        return replace(first, shape=sizes, offset=first.offset + start * first.stride[dim])
    raise ValueError(f"{op} would invent values")


def _put_together(op: str, dim: int, values: Sequence[View | Joined]) -> Joined:
    if op == "stack2":
        half = len(values) // 2
        return _put_together("stack", dim, [_put_together("stack", 0, part) for part in (values[:half], values[half:])])
    if op == "stack":
        raised = [_unsqueezed(v, dim) for v in values]
        shape = (*values[0].shape[:dim], len(values), *values[0].shape[dim:])
        if len({v.shape for v in values}) != 1:
            raise ValueError("its parts have different shapes")
        return Joined(tuple(raised), shape, dim)
    rest = {(*v.shape[:dim], *v.shape[dim + 1 :]) for v in values}
    if len(rest) != 1:
        raise ValueError("its parts differ in more than one dimension")
    first = values[0].shape
    return Joined(tuple(values), (*first[:dim], sum(v.shape[dim] for v in values), *first[dim + 1 :]), dim)


def _unsqueezed(value: View | Joined, dim: int) -> View | Joined:
    shape = (*value.shape[:dim], 1, *value.shape[dim:])
    if isinstance(value, View):
        return replace(value, shape=shape, stride=(*value.stride[:dim], 1, *value.stride[dim:]))
    return Joined(value.parts, shape, -1) if _is_outermost(value) else Joined((value,), shape, -1)


def _is_outermost(value: Joined) -> bool:
    """Whether its bytes are those of its parts, one after the other."""
    return value.dim <= 0 or all(n == 1 for n in value.shape[: value.dim])


def content(value: View | Joined, read: Callable[[TensorEntry, int, int], bytes]) -> bytes:
    """The bytes of a tensor, its elements one after the other.

    Args:
        value: What to lay out.
        read: Reads (tensor, first byte in its storage, length).
    """
    if isinstance(value, View):
        return _laid_out(value, read)
    if _is_outermost(value):
        return b"".join(content(p, read) for p in value.parts)
    size = BY_NAME[_dtype(value)].itemsize
    parts = [content(p, read) for p in value.parts]
    inner = size * math.prod(value.shape[value.dim + 1 :])
    widths = [p.shape[value.dim] * inner for p in value.parts]
    rows = math.prod(value.shape[: value.dim])
    return b"".join(
        part[row * width : (row + 1) * width] for row in range(rows) for part, width in zip(parts, widths, strict=True)
    )


def _dtype(value: View | Joined) -> str:
    while isinstance(value, Joined):
        value = value.parts[0]
    return value.entry.dtype


def first_entry(value: View | Joined) -> TensorEntry:
    """The first tensor that it is made of."""
    while isinstance(value, Joined):
        value = value.parts[0]
    return value.entry


def _laid_out(view: View, read: Callable[[TensorEntry, int, int], bytes]) -> bytes:
    size = BY_NAME[view.entry.dtype].itemsize
    count = math.prod(view.shape)
    if not count:
        return b""
    if view.contiguous:
        return read(view.entry, view.offset * size, count * size)
    span = 1 + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
    block = read(view.entry, view.offset * size, span * size)
    starts = [0]
    *outer, last = zip(view.shape, view.stride, strict=True)
    for n, s in outer:
        starts = [at + i * s for at in starts for i in range(n)]
    n, s = last
    if s == 0:  # expanded: one element stands for all of them
        return b"".join(block[at * size : (at + 1) * size] * n for at in starts)
    if s == 1:
        return b"".join(block[at * size : (at + n) * size] for at in starts)
    out = bytearray(count * size)
    row = n * size
    for number, at in enumerate(starts):
        # Every byte of an element is a strided slice of its own: a handful of them in place of a loop over elements.
        for byte in range(size):
            first = at * size + byte
            out[number * row + byte : (number + 1) * row : size] = block[
                first : first + (n - 1) * s * size + 1 : s * size
            ]
    return bytes(out)

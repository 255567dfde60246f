"""Tensors with values that the file does not hold, computed without torch: in double precision, rounded once at the end.

Nothing here is exact in the sense of a copy: whoever asks for it is told what is computed, drawn or left out.
"""

from __future__ import annotations

import base64
import binascii
import math
import random
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import TensorEntry
from relight.core.dtypes import BY_NAME
from relight.repair import tensor_values
from relight.repair.tensor_values import Joined, View, view_of

Reader = Callable[[TensorEntry, int, int], bytes]

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_INTEGERS = {
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor that is computed.

    Attributes:
        name: What it is called, which seeds what is drawn for it.
        parts: What it is made of.
        how: As `relight.core.edits.ComputeTensors` writes it.
        shape: Sizes.
        dtype: Element type.
    """

    name: str
    parts: tuple[TensorEntry, ...]
    how: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor whose bytes are known.

    Attributes:
        data: Its elements, one after the other.
        shape: Sizes.
        dtype: Element type.
    """

    data: bytes
    shape: tuple[int, ...]
    dtype: str


def computed(name: str, parts: Sequence[TensorEntry], how: str, shape: tuple[int, ...], dtype: str) -> Computed | Held:
    """What a recipe makes, checked as far as that goes without values.

    Raises:
        ValueError: It makes no sense for these tensors.
    """
    op, *rest = how.split(":", 1)
    known = BY_NAME.get(dtype)
    if known is None:
        raise ValueError(f"there is no dtype {dtype}")
    if op == "value":
        try:
            data = base64.b64decode(rest[0] if rest else "", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("its value is no base64") from None
        if len(data) != math.prod(shape) * known.itemsize:
            raise ValueError(f"its value has {len(data)} bytes, not those of {list(shape)} {dtype}")
        return Held(data, shape, dtype)
    if op not in _OPS or len(parts) != _OPS[op]:
        raise ValueError(f"{how} is nothing that can be computed of {len(parts)} tensors")
    out = Computed(name, tuple(parts), how, shape, dtype)
    for part in parts:
        if part.dtype not in _FLOATS and not (op == "cast" and part.dtype in (*_INTEGERS, "bool")):
            raise ValueError(f"{part.key} is {part.dtype}, which nothing is computed of")
    if dtype not in _FLOATS and not (op == "cast" and dtype in _INTEGERS):
        raise ValueError(f"nothing is computed as {dtype}")
    if op == "rows":
        _differing(parts[0].shape, shape)
    elif op == "grid":
        dim = _differing(parts[0].shape, shape)
        for size in (parts[0].shape[dim], shape[dim]):
            if math.isqrt(size - _number(how, 1)) ** 2 != size - _number(how, 1):
                raise ValueError(f"{size} positions are no square")
    elif op in ("fold", "norm"):
        whole, small = (parts[1].shape, parts[0].shape) if op == "fold" else (parts[0].shape, shape)
        _kept_dim(whole, small)
        if op == "fold" and whole != shape:
            raise ValueError(f"{list(whole)} is not {list(shape)}")
    elif op == "cast" and parts[0].shape != shape:
        raise ValueError(f"{list(parts[0].shape)} is not {list(shape)}")
    return out


_OPS = {"rows": 1, "grid": 1, "uniform": 0, "fold": 2, "norm": 1, "cast": 1}


def content(value: View | Joined | Computed | Held, read: Reader) -> bytes:
    """The bytes of a tensor, its elements one after the other."""
    if isinstance(value, Held):
        return value.data
    if isinstance(value, Computed):
        return _bytes(_values(value, read), value.dtype)
    return tensor_values.content(value, read)


def _values(value: Computed, read: Reader) -> Sequence[float]:
    op = value.how.split(":")[0]
    parts = [_numbers(tensor_values.content(view_of(p), read), p.dtype) for p in value.parts]
    if op == "uniform":
        draw = random.Random(zlib.crc32(value.name.encode()))
        bound = 1 / math.sqrt(max(1, _number(value.how, 1)))
        return array("d", (draw.uniform(-bound, bound) for _ in range(math.prod(value.shape))))
    if op == "rows":
        return _rows(parts[0], value.parts[0].shape, value.shape)
    if op == "grid":
        return _grid(parts[0], value.parts[0].shape, value.shape, _number(value.how, 1))
    if op == "norm":
        whole = value.parts[0].shape
        return [math.sqrt(n) for n in _squares(parts[0], whole, _kept_dim(whole, value.shape))]
    if op == "fold":
        whole = value.parts[1].shape
        dim = _kept_dim(whole, value.parts[0].shape)
        norms = [math.sqrt(n) for n in _squares(parts[1], whole, dim)]
        factors = [g / n if n else 0.0 for g, n in zip(parts[0], norms, strict=True)]
        inner, count = _inner(whole, dim)
        return array("d", (v * factors[i // inner % count] for i, v in enumerate(parts[1])))
    return parts[0]  # cast


def _number(how: str, index: int) -> int:
    try:
        return int(how.split(":")[index])
    except (IndexError, ValueError):
        raise ValueError(f"{how} lacks a number") from None


def _differing(old: tuple[int, ...], new: tuple[int, ...]) -> int:
    """The only dimension in which two shapes differ."""
    dims = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    if len(old) != len(new) or len(dims) != 1 or not old[dims[0]]:
        raise ValueError(f"{list(old)} and {list(new)} differ in more than the size of one dimension")
    return dims[0]


def _kept_dim(whole: tuple[int, ...], small: tuple[int, ...]) -> int | None:
    """Along which dimension a magnitude counts; None for one that is for all."""
    if math.prod(small) == 1 and len(small) in (0, 1, len(whole)):
        return None if math.prod(whole) != 1 or not small else 0
    dims = [i for i, n in enumerate(small) if n != 1]
    if len(small) != len(whole) or len(dims) != 1 or whole[dims[0]] != small[dims[0]]:
        raise ValueError(f"{list(small)} is no magnitude of {list(whole)}")
    return dims[0]


def _inner(shape: tuple[int, ...], dim: int | None) -> tuple[int, int]:
    """How many elements lie below an index of a dimension, and how many indices it has."""
    if dim is None:
        return max(1, math.prod(shape)), 1
    return max(1, math.prod(shape[dim + 1 :])), shape[dim]


def _squares(values: Sequence[float], shape: tuple[int, ...], dim: int | None) -> list[float]:
    inner, count = _inner(shape, dim)
    out = [0.0] * count
    for start in range(0, len(values), inner):
        out[start // inner % count] += math.fsum(v * v for v in values[start : start + inner])
    return out


def _rows(values: Sequence[float], old: tuple[int, ...], new: tuple[int, ...]) -> Sequence[float]:
    dim = _differing(old, new)
    inner = max(1, math.prod(old[dim + 1 :]))
    out = array("d")
    for outer in range(math.prod(old[:dim])):
        block = values[outer * old[dim] * inner : (outer + 1) * old[dim] * inner]
        out.extend(block[: new[dim] * inner])
        if new[dim] > old[dim]:
            mean = array("d", (math.fsum(block[i::inner]) / old[dim] for i in range(inner)))
            for _ in range(new[dim] - old[dim]):
                out.extend(mean)
    return out


def _grid(values: Sequence[float], old: tuple[int, ...], new: tuple[int, ...], kept: int) -> Sequence[float]:
    """Bilinear, as torch does it with ``align_corners=False``."""
    dim = _differing(old, new)
    inner = max(1, math.prod(old[dim + 1 :]))
    a, b = math.isqrt(old[dim] - kept), math.isqrt(new[dim] - kept)
    axis = []
    for i in range(b):
        at = max((i + 0.5) * a / b - 0.5, 0.0)
        low = min(int(at), a - 1)
        axis.append((low, min(low + 1, a - 1), at - low))
    out = array("d")
    for outer in range(math.prod(old[:dim])):
        start = outer * old[dim] * inner
        out.extend(values[start : start + kept * inner])
        base = start + kept * inner
        for y0, y1, fy in axis:
            for x0, x1, fx in axis:
                corners = [base + (y * a + x) * inner for y in (y0, y1) for x in (x0, x1)]
                weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
                out.extend(
                    math.fsum(w * values[c + i] for w, c in zip(weights, corners, strict=True)) for i in range(inner)
                )
    return out


# ---------------------------------------------------------------- numbers


def _numbers(data: bytes, dtype: str) -> Sequence[float]:
    if dtype == "float16":
        return array("d", (n for (n,) in struct.iter_unpack("<e", data)))
    if dtype == "bool":
        return array("d", [float(b) for b in data])
    if dtype == "bfloat16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[::2], data[1::2]
        return _native("f", bytes(wide))
    return _native({"float32": "f", "float64": "d", **_INTEGERS}[dtype], data)


def _native(code: str, data: bytes) -> Sequence[float]:
    out = array(code)
    out.frombytes(data)
    if sys.byteorder == "big":
        out.byteswap()
    return out if code in ("d", "q", "Q") else array("d", out)


def _bytes(values: Sequence[float], dtype: str) -> bytes:
    """Rounded to the type; what is beyond its range becomes infinite, as torch has it."""
    if dtype == "float16":
        return b"".join(_half(v) for v in values)
    out: array[Any]
    if dtype in _INTEGERS:
        try:
            out = array(_INTEGERS[dtype], (int(v) for v in values))
        except (OverflowError, ValueError):
            raise ValueError(f"a value does not fit into {dtype}") from None
    else:
        out = array("d" if dtype == "float64" else "f", values)
    if dtype == "bfloat16":
        bits = array("I")
        bits.frombytes(out.tobytes())
        # To the nearest, ties to even; NaN stays NaN.
        rounded = (
            (n >> 16 | 0x40) if n & 0x7FFFFFFF > 0x7F800000 else (n + 0x7FFF + (n >> 16 & 1)) >> 16 for n in bits
        )
        out = array("H", (n & 0xFFFF for n in rounded))
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()


def _half(value: float) -> bytes:
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, value))

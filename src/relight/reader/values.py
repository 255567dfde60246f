"""Values of tensors, read from their bytes only: decoding, statistics, and the search for NaN and Inf.

Standard library only. Everything works on chunks, so no tensor is ever held as a whole.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.reader.source import ByteSource

CHUNK = 4 << 20  # a multiple of every item size
_GATHER = 64 << 20


@dataclass(frozen=True, slots=True)
class NonFinite:
    """Values of a range that are no numbers.

    Attributes:
        nan: How many are NaN.
        inf: How many are infinite.
        first: Element index of the first of them within the range, -1 if there is none.
    """

    nan: int = 0
    inf: int = 0
    first: int = -1


# Where the exponent of an element is, and what it is when it is all ones: (item size, index of the byte that holds its
# high bits, mask and value there, index of the byte with its low bits or None, mask and value there). Little endian.
# Sources: IEEE 754 for the first three; bfloat16 is the upper half of a float32; float8: arXiv 2209.05433.
_EXPONENTS: dict[str, tuple[int, int, int, int, int | None, int, int]] = {
    "float16": (2, 1, 0x7C, 0x7C, None, 0, 0),
    "bfloat16": (2, 1, 0x7F, 0x7F, 0, 0x80, 0x80),
    "float32": (4, 3, 0x7F, 0x7F, 2, 0x80, 0x80),
    "float64": (8, 7, 0x7F, 0x7F, 6, 0xF0, 0xF0),
    "float8_e5m2": (1, 0, 0x7C, 0x7C, None, 0, 0),
}
_PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
# These have a NaN and no infinity: exactly these bit patterns.
_NAN_ONLY = {
    "float8_e4m3fn": (0x7F, 0xFF),
    "float8_e4m3fnuz": (0x80,),
    "float8_e5m2fnuz": (0x80,),
    "float8_e8m0fnu": (0xFF,),
}
_TABLES: dict[str, bytes] = {}


def can_be_non_finite(dtype: str) -> bool:
    """Whether elements of a type can be NaN or infinite at all."""
    return _PARTS.get(dtype, dtype) in _EXPONENTS or dtype in _NAN_ONLY


def non_finite(chunk: bytes, dtype: str, *, little: bool = True) -> NonFinite:
    """Count NaN and Inf in a run of elements.

    Healthy chunks cost one strided copy and one search in C: the exponent's high bits are the same byte of every
    element, and an all-ones exponent shows there. Only a hit is looked at element by element.

    Args:
        chunk: Whole elements.
        dtype: Their type.
        little: Byte order of the file.
    """
    if dtype in _NAN_ONLY:
        hits = sum(chunk.count(b) for b in _NAN_ONLY[dtype])
        first = min((i for i in (chunk.find(b) for b in _NAN_ONLY[dtype]) if i >= 0), default=-1)
        return NonFinite(hits, 0, first)
    dtype = _PARTS.get(dtype, dtype)
    if dtype not in _EXPONENTS:
        return NonFinite()
    size, high, mask, ones, low, low_mask, low_ones = _EXPONENTS[dtype]
    if not little:
        high = size - 1 - high
        low = None if low is None else size - 1 - low
    column = chunk[high::size] if size > 1 else chunk
    marked = column.translate(_table(mask, ones))
    at = marked.find(1)
    nan = inf = 0
    first = -1
    while at >= 0:
        element = chunk[at * size : (at + 1) * size]
        if low is None or element[low] & low_mask == low_ones:
            if first < 0:
                first = at
            if math.isinf(_float(element, dtype, little=little)):
                inf += 1
            else:
                nan += 1
        at = marked.find(1, at + 1)
    return NonFinite(nan, inf, first)


def _table(mask: int, ones: int) -> bytes:
    key = f"{mask}/{ones}"
    if key not in _TABLES:
        _TABLES[key] = bytes(1 if b & mask == ones else 0 for b in range(256))
    return _TABLES[key]


def _float(element: bytes, dtype: str, *, little: bool) -> float:
    order = "<" if little else ">"
    if dtype == "bfloat16":
        element = b"\0\0" + element if little else element + b"\0\0"
        dtype = "float32"
    if dtype == "float8_e5m2":
        element = b"\0" + element
        dtype, order = "float16", "<"  # float8_e5m2 is the upper half of a float16
    value: float = struct.unpack(order + {"float16": "e", "float32": "f", "float64": "d"}[dtype], element)[0]
    return value


_ARRAYS = {
    "float32": "f", "float64": "d", "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "bool": "B",
    "quint8": "B", "qint8": "b", "qint32": "i",
}  # fmt: skip


def decode(raw: bytes, dtype: str, *, little: bool = True) -> Sequence[Any]:
    """Elements as Python numbers; a complex number becomes two.

    Args:
        raw: Whole elements.
        dtype: Their type.
        little: Byte order of the file.

    Raises:
        ValueError: A type that has no numbers to show (packed bits).
    """
    dtype = _PARTS.get(dtype, dtype)
    if dtype in _ARRAYS:
        values = array(_ARRAYS[dtype])
        values.frombytes(raw)
        if little != (sys.byteorder == "little"):
            values.byteswap()
        return values
    if dtype == "float16":
        return struct.unpack(f"{'<' if little else '>'}{len(raw) // 2}e", raw)
    if dtype == "bfloat16":
        wide = bytearray(len(raw) * 2)
        low, high = (0, 1) if little else (1, 0)
        wide[2::4], wide[3::4] = raw[low::2], raw[high::2]
        return decode(bytes(wide), "float32")
    if dtype == "float8_e5m2":
        wide = bytearray(len(raw) * 2)
        wide[1::2] = raw
        return decode(bytes(wide), "float16")
    if dtype.startswith("float8_e4m3fn"):
        table = [_e4m3(b, finite_zero=dtype.endswith("fnuz")) for b in range(256)]
        return [table[b] for b in raw]
    raise ValueError(f"{dtype} has no single numbers to show")


def _e4m3(byte: int, *, finite_zero: bool) -> float:
    """One element of float8_e4m3fn, or of its fnuz variant (bias 8, 0x80 is NaN)."""
    if byte in ((0x80,) if finite_zero else (0x7F, 0xFF)):
        return math.nan
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    bias = 8 if finite_zero else 7
    value = math.ldexp(mantissa / 8, 1 - bias) if exponent == 0 else math.ldexp(1 + mantissa / 8, exponent - bias)
    return -value if byte & 0x80 else value


def is_contiguous(tensor: TensorEntry) -> bool:
    """Whether the elements lie in order, one behind the other."""
    wanted = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=False):
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return len(tensor.shape) == len(tensor.stride)


def chunks(source: ByteSource, tensor: TensorEntry, storage: StorageEntry) -> Iterator[bytes]:
    """The bytes of a tensor's elements in order, in runs of whole elements.

    Args:
        source: Where the file's bytes are.
        tensor: A tensor whose storage is in the file.
        storage: That storage.

    Raises:
        ValueError: The values are not plainly in the file: no storage, compressed, sparse, or out of bounds.
    """
    dtype = BY_NAME.get(tensor.dtype)
    if storage.span is None or dtype is None or tensor.layout not in ("strided", "quantized", "subclass"):
        raise ValueError(f"the values of {tensor.key} are not plainly in the file")
    size = dtype.itemsize
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    if tensor.numel and (tensor.offset < 0 or (last + 1) * size > storage.span.length):
        raise ValueError(f"{tensor.key} reaches beyond its storage")
    start = storage.span.start + tensor.offset * size
    if is_contiguous(tensor):
        left = tensor.numel * size
        while left > 0:
            part = source.read(start, min(CHUNK, left))
            if not part:
                raise ValueError(f"the file ends inside {tensor.key}")
            yield part
            start, left = start + len(part), left - len(part)
        return
    yield from _gathered(source, tensor, storage.span.start, (tensor.offset, last + 1), size)


def _gathered(
    source: ByteSource, tensor: TensorEntry, start: int, reach: tuple[int, int], size: int
) -> Iterator[bytes]:
    """The elements of a view with holes or another order, in runs as long as those of a plain tensor.

    What the view reaches over is read once where that is small; a large one is read element by element.
    """
    first, end = reach
    whole = source.read(start + first * size, (end - first) * size) if (end - first) * size <= _GATHER else None
    run = bytearray()
    for offset in _offsets(tensor):
        if whole is None:
            run += source.read(start + offset * size, size)
        else:
            run += whole[(offset - first) * size : (offset - first + 1) * size]
        if len(run) == CHUNK:
            yield bytes(run)
            run.clear()
    if run:
        yield bytes(run)


def _offsets(tensor: TensorEntry) -> Iterator[int]:
    index = [0] * len(tensor.shape)
    if not tensor.numel:
        return
    while True:
        yield tensor.offset + sum(i * s for i, s in zip(index, tensor.stride, strict=True))
        for d in range(len(index) - 1, -1, -1):
            index[d] += 1
            if index[d] < tensor.shape[d]:
                break
            index[d] = 0
        else:
            return


def sum_of(numbers: Iterable[float]) -> float:
    """The sum, infinite where it is beyond what a float holds: `math.fsum` raises there."""
    try:
        return math.fsum(numbers)
    except OverflowError:
        return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the values of a tensor look like; of the finite ones where others are among them.

    Attributes:
        count: Elements; a complex one counts as two, its parts.
        nan: NaN among them.
        inf: Infinite ones among them.
        zeros: Zeros among them.
        minimum: Smallest, None if there is no finite one.
        maximum: Largest.
        mean: Mean, None also where it is beyond what a float holds on the way.
        std: Standard deviation (of the population), None likewise.
        first: The first few, in order.
    """

    count: int
    nan: int
    inf: int
    zeros: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    first: tuple[float | int, ...]


def statistics(source: ByteSource, tensor: TensorEntry, storage: StorageEntry, *, little: bool = True) -> Statistics:
    """Read one tensor and describe its values; nothing else of the file is read.

    Raises:
        ValueError: The values are not plainly in the file, or are no numbers.
    """
    count = nan = inf = zeros = finite = 0
    total = squares = 0.0
    minimum, maximum = math.inf, -math.inf
    first: list[float | int] = []
    for chunk in chunks(source, tensor, storage):
        values = decode(chunk, tensor.dtype, little=little)
        if len(first) < 8:
            first.extend(values[: 8 - len(first)])
        count += len(values)
        good: Sequence[Any] = values
        if can_be_non_finite(tensor.dtype):
            bad = non_finite(chunk, tensor.dtype, little=little)
            nan, inf = nan + bad.nan, inf + bad.inf
            if bad.nan or bad.inf:
                good = [v for v in values if math.isfinite(v)]
        if not len(good):
            continue
        zeros += sum(1 for v in good if v == 0) if not isinstance(good, array) else good.count(0)
        finite += len(good)
        minimum, maximum = min(minimum, min(good)), max(maximum, max(good))
        total += sum_of(good)
        squares += sum_of(map(float.__mul__, map(float, good), map(float, good)))
    mean = total / finite if finite and math.isfinite(total) else None
    std = None
    if mean is not None and math.isfinite(squares) and math.isfinite(mean * mean):
        std = math.sqrt(max(squares / finite - mean * mean, 0.0))
    return Statistics(
        count=count,
        nan=nan,
        inf=inf,
        zeros=zeros,
        minimum=minimum if finite else None,
        maximum=maximum if finite else None,
        mean=mean,
        std=std,
        first=tuple(first),
    )

"""Values from bytes, against struct and plain arithmetic; against torch in tests/oracle."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from relight.core.checkpoint import Span, StorageEntry, TensorEntry
from relight.core.objects import ObjectPath
from relight.reader import values
from relight.reader.source import MemorySource


def entry(shape: tuple[int, ...], stride: tuple[int, ...], dtype: str = "float32", offset: int = 0) -> TensorEntry:
    return TensorEntry("w", dtype, shape, stride, offset, "0", "cpu", ObjectPath(("w",)))


@pytest.mark.parametrize(
    ("dtype", "raw", "expected"),
    [
        ("float32", struct.pack("<3f", 1.5, math.nan, -math.inf), (1, 1, 1)),
        ("float64", struct.pack("<3d", math.inf, math.nan, math.nan), (2, 1, 0)),
        ("float16", struct.pack("<3e", 1.0, math.inf, 65504.0), (0, 1, 1)),
        ("bfloat16", b"\x80\x7f" + b"\xc0\xff" + b"\x7f\x7f", (1, 1, 0)),  # inf, nan, largest number
        ("complex64", struct.pack("<4f", 1, math.nan, 2, 3), (1, 0, 1)),
        ("float8_e4m3fn", b"\x7e\x7f\xff", (2, 0, 1)),
        ("float8_e5m2", b"\x7b\x7c\x7d", (1, 1, 1)),
        ("int64", struct.pack("<q", -1), (0, 0, -1)),
    ],
)
def test_non_finite(dtype: str, raw: bytes, expected: tuple[int, int, int]) -> None:
    found = values.non_finite(raw, dtype)
    assert (found.nan, found.inf, found.first) == expected


def test_large_finite_values_are_no_alarm() -> None:
    """The high byte of the exponent is all ones here, the exponent is not."""
    raw = struct.pack("<2f", 3.4e38, -3.4e38)
    assert values.non_finite(raw, "float32") == values.NonFinite()


def test_big_endian() -> None:
    raw = struct.pack(">2f", math.nan, 1.0)
    assert values.non_finite(raw, "float32", little=False).nan == 1
    assert list(values.decode(struct.pack(">2f", 1.5, -2.0), "float32", little=False)) == [1.5, -2.0]


@pytest.mark.parametrize("pattern", range(0, 65536, 257))
def test_bfloat16_is_the_upper_half_of_a_float32(pattern: int) -> None:
    raw = struct.pack("<H", pattern)
    (wide,) = struct.unpack("<f", b"\0\0" + raw)
    (value,) = values.decode(raw, "bfloat16")
    assert value == wide or (math.isnan(value) and math.isnan(wide))


def test_a_transposed_view_comes_in_its_own_order() -> None:
    raw = struct.pack("<6f", *range(6))
    storage = StorageEntry("0", "float32", "cpu", 6, 24, Span(0, 24))
    tensor = entry((3, 2), (1, 3))
    got = b"".join(values.chunks(MemorySource(raw), tensor, storage))
    assert struct.unpack("<6f", got) == (0, 3, 1, 4, 2, 5)


def test_a_tensor_beyond_its_storage_is_refused() -> None:
    storage = StorageEntry("0", "float32", "cpu", 2, 8, Span(0, 8))
    with pytest.raises(ValueError, match="beyond"):
        list(values.chunks(MemorySource(bytes(8)), entry((3,), (1,)), storage))


def test_statistics() -> None:
    raw = struct.pack("<5f", 0.0, 1.0, 2.0, math.nan, -3.0)
    storage = StorageEntry("0", "float32", "cpu", 5, 20, Span(0, 20))
    s = values.statistics(MemorySource(raw), entry((5,), (1,)), storage)
    assert (s.count, s.nan, s.inf, s.zeros, s.minimum, s.maximum, s.mean) == (5, 1, 0, 1, -3.0, 2.0, 0.0)
    assert s.std == pytest.approx(math.sqrt(14 / 4))


def test_only_the_tensor_is_read(tmp_path: Path) -> None:
    source = MemorySource(bytes(1000))
    storage = StorageEntry("0", "float32", "cpu", 250, 1000, Span(0, 1000))
    values.statistics(source, entry((4,), (1,), offset=10), storage)
    assert source.bytes_read == 16

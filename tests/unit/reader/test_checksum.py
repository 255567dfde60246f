"""The faster checksum is used where it is installed, and nowhere else."""

from __future__ import annotations

import sys
import types
import zlib

import pytest

import relight
from relight.reader import checksum
from relight.rulekit import File
from relight.testing import write


@pytest.fixture
def isal(monkeypatch):
    """An isal that counts how many bytes it is asked about."""
    module, inner = types.ModuleType("isal"), types.ModuleType("isal.isal_zlib")
    seen = []

    def crc32(data, value=0):
        seen.append(len(data))
        return zlib.crc32(data, value)

    inner.crc32, module.isal_zlib = crc32, inner
    monkeypatch.setitem(sys.modules, "isal", module)
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", inner)
    checksum.fastest.cache_clear()
    yield seen
    checksum.fastest.cache_clear()


@pytest.fixture
def file(tmp_path):
    return write(File(tensors={"w": (1000, 300), "b": (3,)}), tmp_path / "model.ckpt")


def test_without_it(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    checksum.fastest.cache_clear()
    assert checksum.fastest() is zlib.crc32
    assert relight.verify(file).ok
    checksum.fastest.cache_clear()


def test_what_reads_every_byte_uses_it(file, isal):
    assert relight.verify(file).ok
    assert sum(isal) >= 1_200_000
    isal.clear()
    relight.convert(file, file.with_name("w.safetensors"), rest=False)
    assert sum(isal) == 1_200_012
    isal.clear()
    relight.convert(file.with_name("w.safetensors"), file.with_name("again.ckpt"))
    assert sum(isal) >= 1_200_012


def test_damage_is_found_with_it(file, isal):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert not relight.verify(file).ok
    with pytest.raises(relight.ConversionError, match="is not what its source says"):
        relight.convert(file, file.with_name("w.safetensors"))

"""Pickles and archives for the reader's tests, put together from opcodes: no library would write most of them."""

from __future__ import annotations

import struct
import zlib


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def number(value: int) -> bytes:
    """LONG1, which holds any."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    """A tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


STORAGE = name("torch", "FloatStorage")
HOOKS = name("collections", "OrderedDict") + b")R"


def pid(key: bytes = text("0"), numel: bytes = number(4), kind: bytes = STORAGE, device: bytes = text("cpu")) -> bytes:
    """A persistent id of torch, and BINPERSID."""
    return b"(" + text("storage") + kind + key + device + numel + b"tQ"


def tensor(
    *,
    storage: bytes | None = None,
    offset: bytes = number(0),
    size: bytes = numbers(4),
    stride: bytes = numbers(1),
    hooks: bytes = HOOKS,
    more: bytes = b"",
    after: bytes = b"",
    function: bytes = name("torch._utils", "_rebuild_tensor_v2"),
) -> bytes:
    """``_rebuild_tensor_v2`` with parts of the caller's choosing."""
    return function + b"(" + (storage or pid()) + offset + size + stride + b"\x89" + hooks + more + b"tR" + after


def state_dict(**values: bytes) -> bytes:
    """A pickle of ``{"state_dict": {...}}``."""
    inner = b"".join(text(key) + value for key, value in values.items())
    return b"\x80\x02}(" + text("state_dict") + b"}(" + inner + b"uu."


def archive(records: dict[str, bytes], *, root: str = "archive") -> bytes:
    """A zip archive of stored records, as sound as its contents."""
    out, directory = bytearray(), bytearray()
    for short, data in records.items():
        full = f"{root}/{short}".encode()
        fields = (20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(full), 0)
        offset = len(out)
        out += struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + full + data
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, offset) + full
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(records), len(records), len(directory), len(out), 0)
    return bytes(out + directory + end)


def checkpoint(data: bytes, *, storages: dict[str, bytes] | None = None, more: dict[str, bytes] | None = None) -> bytes:
    """A file of torch.save around a pickle; storage 0 has four floats."""
    found = {"0": struct.pack("<4f", 1, 2, 3, 4)} if storages is None else storages
    records = {
        "data.pkl": data,
        "byteorder": b"little",
        **{f"data/{k}": v for k, v in found.items()},
        "version": b"3\n",
    }
    return archive({**records, **(more or {})})

"""Writes the zip archive that torch.save writes, byte for byte where the records are the same.

With a ``.format_version`` record, torch computes where storages are from their sizes alone, by the habits of its own
writer (``_get_offset`` in torch/serialization.py, ``getPadding`` in caffe2/serialize/inline_container.cc, and miniz.c):
payloads at multiples of 64, sizes and checksum behind the payload, none behind an empty one. Hence this writer has the
same habits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from relight.reader import checksum
from relight.reader.source import ByteSource
from relight.repair.copying import BUFFER, Progress
from relight.repair.sinks import Sink

_ALIGNMENT = 64
_NARROW = 0xFFFFFFFF
_FLAGS = 0x0808  # sizes follow the payload; names are UTF-8


class ZipOut:
    """An archive that is written from start to end.

    Args:
        target: What takes the bytes.
        folder: The folder that holds all records.
    """

    def __init__(self, target: Sink, folder: str) -> None:
        self.position = 0
        self._target = target
        self._folder = folder
        self._pending = bytearray()
        self._directory = bytearray()
        self._count = 0

    def add(self, name: str, data: bytes) -> int:
        """Write a record from memory; its checksum."""
        crc = zlib.crc32(data)
        offset = self._begin(name, len(data))
        self._write(data)
        self._finish(name, offset, len(data), crc)
        return crc

    def copy(
        self,
        name: str,
        source: ByteSource,
        start: int,
        length: int,
        crc: int | None,
        progress: Progress | None = None,
        *,
        block: int = _ALIGNMENT,
    ) -> int:
        """Copy a record's bytes from another file.

        Args:
            name: What it is called here.
            source: The other file.
            start: Where they are there.
            length: How many they are.
            crc: Their checksum, None where it is not known: then a file on the disk gets it, for which they are read.
            progress: Called with the number of bytes copied since the last call.
            block: They get a place that differs by a multiple of this from where they are there; so do those that
                follow, where they have the same sizes and names as long: file systems share whole blocks.

        Returns:
            The checksum.
        """
        if crc is None:
            crc = self._target.checksum(source, start, length)
        offset = self._begin(name, length, start, block)
        if length < self._target.small:
            data = source.read(start, length)
            if len(data) != length:
                raise OSError(5, "the file has become shorter")
            self._write(data)
            if progress is not None:
                progress(length)
        else:
            self._flush()
            self._target.copy(source, start, length, self.position, progress)
            self.position += length
        self._finish(name, offset, length, crc)
        return crc

    def stream(self, name: str, length: int, chunks: Iterable[bytes], progress: Progress | None = None) -> int:
        """Write a record whose bytes are made on the way; its checksum.

        Raises:
            OSError: They are not as many as was said.
        """
        offset = self._begin(name, length)
        crc, left, crc32 = 0, length, checksum.fastest()
        for data in chunks:
            crc, left = crc32(data, crc), left - len(data)
            self._write(data)
            if progress is not None:
                progress(len(data))
        if left:
            raise OSError(5, f"{abs(left):,} bytes too {'few' if left > 0 else 'many'} for {name}")
        self._finish(name, offset, length, crc)
        return crc

    def close(self) -> None:
        """Write the directory."""
        start, size, count = self.position, len(self._directory), self._count
        self._write(self._directory)
        end64 = self.position
        self._write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end64, 1))
        few = min(count, 0xFFFF)
        self._write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, few, few, min(size, _NARROW), min(start, _NARROW), 0))
        self._flush()
        self._target.end(self.position)

    # ------------------------------------------------------------ records

    def _begin(self, name: str, length: int, like: int = 0, block: int = _ALIGNMENT) -> int:
        """Write the local header, padded so that the payload starts at a multiple of 64; where the header is."""
        offset = self.position
        raw = f"{self._folder}/{name}".encode()
        wide = _wide(length, offset)
        head = offset + 30 + len(raw) + len(wide) + 4
        padding = (like - head) % block if like % _ALIGNMENT == 0 else -head % _ALIGNMENT
        extra = wide + b"FB" + struct.pack("<H", padding) + b"Z" * padding
        flags = _FLAGS if length else 0x0800
        self._write(struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(raw), len(extra)))
        self._write(raw + extra)
        return offset

    def _finish(self, name: str, offset: int, length: int, crc: int) -> None:
        """Write what follows the payload, and remember the line of the directory."""
        if length:
            wide = offset >= _NARROW or length >= _NARROW
            self._write(struct.pack("<4sI2Q" if wide else "<4s3I", b"PK\x07\x08", crc, length, length))
        raw = f"{self._folder}/{name}".encode()
        extra = _wide(length, offset)
        short = min(length, _NARROW)
        self._directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 0, 0, _FLAGS if length else 0x0800, 0, 0, 0, crc, short, short,
            len(raw), len(extra), 0, 0, 0, 0, min(offset, _NARROW),
        )  # fmt: skip
        self._directory += raw + extra
        self._count += 1

    # ------------------------------------------------------------ bytes

    def _write(self, data: bytes | bytearray) -> None:
        self._pending += data
        self.position += len(data)
        if len(self._pending) >= BUFFER:
            self._flush()

    def _flush(self) -> None:
        self._target.write(self._pending, self.position - len(self._pending))
        self._pending = bytearray()


def _wide(length: int, offset: int) -> bytes:
    """The zip64 field with what does not fit into 32 bits; empty where all does."""
    values = [v for v in (length, length, offset) if v >= _NARROW]
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""

"""What a manifest records of each tensor, computed again from the bytes of a file: a sum, and the hash of a sample.

The sum adds all bytes as 64-bit little-endian integers, modulo 2**64; what is left at the end counts as one more. The
sample is the whole of a small tensor, else chunks that lie evenly over it; its hash begins with dtype and shape.
"""

from __future__ import annotations

import hashlib
import sys
from array import array

from relight.core.checkpoint import Span, StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.reader.source import ByteSource
from relight.reader.values import chunks, is_contiguous

ALGORITHM = "sum64+sample/1"
CHUNK = 4096
_CHUNKS = 16
_MASK = (1 << 64) - 1


def offsets(nbytes: int) -> list[int]:
    """Where the chunks of a sample begin."""
    if nbytes <= CHUNK * _CHUNKS:
        return list(range(0, nbytes, CHUNK))
    last = (nbytes - CHUNK) // 8
    return [last * i // (_CHUNKS - 1) * 8 for i in range(_CHUNKS)]


def span_of(tensor: TensorEntry, storage: StorageEntry | None) -> Span | None:
    """Where in the file the bytes of a tensor lie, one behind the other; None where they do not."""
    dtype = BY_NAME.get(tensor.dtype)
    if storage is None or storage.span is None or dtype is None or tensor.layout != "strided":
        return None
    length = tensor.numel * dtype.itemsize
    start = tensor.offset * dtype.itemsize
    if not is_contiguous(tensor) or tensor.offset < 0 or start + length > storage.span.length:
        return None
    return Span(storage.span.start + start, length)


def sample(source: ByteSource, tensor: TensorEntry, span: Span) -> str:
    """The hash of the sample; reads 64 KB at most."""
    hashed = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    for offset in offsets(span.length):
        hashed.update(source.read(span.start + offset, min(CHUNK, span.length - offset)))
    return hashed.hexdigest()[:24]


def total(source: ByteSource, tensor: TensorEntry, storage: StorageEntry) -> str:
    """The sum; reads every byte.

    Raises:
        ValueError: The values are not plainly in the file.
    """
    out = 0
    for block in chunks(source, tensor, storage):
        whole = len(block) // 8 * 8
        numbers = array("Q", block[:whole])
        if sys.byteorder == "big":
            numbers.byteswap()
        out += sum(numbers) + int.from_bytes(block[whole:], "little")
    return f"{out & _MASK:016x}"

"""The layout of torch before 0.1.10, a tar archive: no torch that runs today writes it, and all of them read it.

Source: ``legacy_load`` in ``torch/serialization.py`` of torch 2.13, the reader.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

from relight.core.dtypes import BY_NAME
from relight.rulekit.example import Ref
from relight.testing.pickle_writer import PickleWriter

_INFO = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@dataclass(frozen=True, slots=True)
class TarStorage:
    """A storage by its number.

    Attributes:
        key: The number, an address in the process that saved it.
        data: Its bytes.
        dtype: Element type by name.
        device: Location tag.
    """

    key: int
    data: bytes
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class TarTensor:
    """A tensor by its number: which part of which storage it is."""

    key: int
    storage: int | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    kind: str = "torch.FloatTensor"


def tar_members(
    pickle: bytes,
    storages: Iterable[TarStorage],
    tensors: Iterable[TarTensor],
    views: Iterable[tuple[int, int, int, int]] = (),
) -> dict[str, bytes]:
    """The four members of such a file.

    Args:
        pickle: The object; tensors in it are persistent ids, their numbers as text.
        storages: What the tensors lie on.
        tensors: What the numbers in the pickle stand for.
        views: Storages that are parts of others: (key, key of the other, offset, elements).
    """
    storages, tensors = list(storages), list(tensors)
    stored = bytearray(_pickled(len(storages)))
    for s in storages:
        dtype = BY_NAME[s.dtype]
        stored += _pickled((s.key, s.device, Ref(f"torch.{dtype.storage}")))
        stored += struct.pack("<q", len(s.data) // dtype.itemsize) + s.data
    stored += _pickled(list(views))
    described = bytearray(_pickled(len(tensors)))
    for t in tensors:
        described += _pickled((t.key, t.storage, Ref(t.kind)))
        described += struct.pack("<i4x", len(t.shape))
        described += struct.pack(f"<{2 * len(t.shape) + 1}q", *t.shape, *t.stride, t.offset)
    return {"sys_info": _pickled(_INFO), "pickle": pickle, "storages": bytes(stored), "tensors": bytes(described)}


def tar(members: dict[str, bytes]) -> bytes:
    """A tar archive of some members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _pickled(value: object) -> bytes:
    writer = PickleWriter()
    writer.value(value)
    return writer.finish()

"""Recipes to bytes: the layouts that torch.save writes, for a few small tensors. Torch reads what comes out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from relight.core.dtypes import BY_NAME
from relight.rulekit.example import File, Tensor
from relight.testing.pickle_writer import PickleWriter
from relight.testing.tar_writer import TarStorage, TarTensor, tar, tar_members

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ALIGNMENT = 64


def write(recipe: File, path: Path) -> Path:
    """Write the recipe's bytes to a file and give its path back."""
    path.write_bytes(contents(recipe))
    return path


def contents(recipe: File) -> bytes:
    """The bytes of a recipe."""
    if recipe.content is not None:
        return recipe.content
    layout = _tar if recipe.tar else _legacy if recipe.legacy else _zip
    data = layout(_root(recipe), recipe)
    if recipe.packed:
        data = tar({"model.ckpt": data}) if recipe.packed == "tar" else _archive({"model.ckpt": data})
    data = recipe.before + data
    return data if recipe.keep >= 1 else data[: int(len(data) * recipe.keep)]


class _StateDict(dict[str, object]):
    """The part of the root that is written as an OrderedDict, with or without ``_metadata``."""


def _root(recipe: File) -> Mapping[str, object]:
    state = _StateDict((k, Tensor(v) if isinstance(v, tuple) else v) for k, v in recipe.tensors.items())
    if recipe.raw:
        return state
    root: dict[str, object] = {}
    if recipe.version is not None:
        root["pytorch-lightning_version"] = recipe.version
    root[recipe.under] = state
    if recipe.hparams is not None:
        root["hparams_name"] = "kwargs"
        root["hyper_parameters"] = recipe.hparams
    root.update(recipe.extra)
    return root


class _Storages:
    """Gives tensors their storages and remembers the bytes; equal storage names share one."""

    def __init__(self, recipe: File) -> None:
        self.recipe = recipe
        self.sizes: dict[str, int] = {}
        self.itemsizes: dict[str, int] = {}
        self.fills: dict[str, int] = {}
        self.numbered: list[TarTensor] = []
        self.stored: dict[int, TarStorage] = {}
        self._shared: dict[str, str] = {}

    def pickle(self, root: Mapping[str, object]) -> bytes:
        writer = PickleWriter(self._tensor, self.recipe.protocol)
        if self.recipe.root is None:
            self._mapping(writer, root)
        else:
            writer.value(self.recipe.root)
        return writer.finish()

    def _mapping(self, writer: PickleWriter, mapping: Mapping[str, object]) -> None:
        if not isinstance(mapping, _StateDict):
            writer.raw(b"}(")
            for key, value in mapping.items():
                writer.value(key)
                if isinstance(value, _StateDict):
                    self._mapping(writer, value)
                else:
                    writer.value(value)
            writer.raw(b"u")
            return
        writer.name("collections.OrderedDict")
        writer.raw(b")R")
        writer.items(mapping)
        if self.recipe.metadata is not None:
            writer.raw(b"}")
            writer.items({"_metadata": {k: {"version": v} for k, v in self.recipe.metadata.items()}})
            writer.raw(b"b")

    def _tensor(self, writer: PickleWriter, tensor: Tensor) -> None:
        numel = 1
        for size in tensor.shape:
            numel *= size
        dtype = BY_NAME[tensor.dtype]
        key = self._shared.get(tensor.storage or "") or str(len(self.sizes))
        if tensor.storage is not None:
            self._shared[tensor.storage] = key
        self.sizes[key] = numel * dtype.itemsize
        self.itemsizes[key] = dtype.itemsize if dtype.storage is not None else 1
        self.fills[key] = tensor.fill
        if self.recipe.tar:
            number = 1000 + len(self.numbered)
            strides = _contiguous(tensor.shape)
            self.numbered.append(TarTensor(number, int(key), tensor.shape, strides))
            self.stored[int(key)] = TarStorage(int(key), bytes(self.sizes[key]), tensor.dtype, tensor.device)
            writer.value(str(number))
            writer.raw(b"Q")
            return
        # torch.save writes tensors without a storage class of their own through an untyped storage.
        typed = dtype.storage is not None
        writer.name("torch._utils._rebuild_tensor_v2" if typed else "torch._utils._rebuild_tensor_v3")
        writer.raw(b"((")
        writer.value("storage")
        writer.name(f"torch.{dtype.storage}" if typed else "torch.storage.UntypedStorage")
        writer.value(key)
        writer.value(tensor.device)
        writer.value(numel if typed else numel * dtype.itemsize)
        if self.recipe.legacy:
            writer.value(None)
        writer.raw(b"tQ")
        writer.value(0)
        writer.value(tensor.shape)
        writer.value(_contiguous(tensor.shape))
        writer.value(False)
        writer.name("collections.OrderedDict")
        writer.raw(b")R")
        if not typed:
            writer.name(f"torch.{dtype.name}")
        writer.raw(b"tR")


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1)
    return tuple(strides)


def _zip(root: Mapping[str, object], recipe: File) -> bytes:
    storages = _Storages(recipe)
    records = {"data.pkl": storages.pickle(root), "byteorder": b"little"}
    for key, nbytes in storages.sizes.items():
        records[f"data/{key}"] = bytes([storages.fills[key]]) * nbytes
    records["version"] = b"3\n"
    folder = f"{recipe.folder}/" if recipe.folder else ""
    return _archive({f"{folder}{name}": payload for name, payload in records.items() if name not in recipe.without})


def _archive(records: Mapping[str, bytes]) -> bytes:
    out = bytearray()
    directory = bytearray()
    for name, payload in records.items():
        full = name.encode()
        offset = len(out)
        # Payloads start at multiples of 64: an extra field of the writer's own ("FB") pads the header.
        padding = -(offset + 30 + len(full) + 4) % _ALIGNMENT
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        crc = zlib.crc32(payload)
        fields = (20, 0, 0, 0, 0x21, crc, len(payload), len(payload), len(full))
        out += struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields, len(extra)) + full + extra + payload
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0, offset) + full
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(records), len(records), len(directory), len(out), 0)
    return bytes(out + directory + end)


def _tar(root: Mapping[str, object], recipe: File) -> bytes:
    storages = _Storages(recipe)
    body = storages.pickle(root)
    return tar(tar_members(body, storages.stored.values(), storages.numbered))


def _legacy(root: Mapping[str, object], recipe: File) -> bytes:
    storages = _Storages(recipe)
    body = storages.pickle(root)
    out = bytearray()
    info = {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    for value in (_MAGIC, _PROTOCOL, info):
        writer = PickleWriter()
        writer.value(value)
        out += writer.finish()
    out += body
    keys = sorted(storages.sizes)
    writer = PickleWriter()
    writer.value(list(keys))
    out += writer.finish()
    for key in keys:
        nbytes = storages.sizes[key]
        out += struct.pack("<q", nbytes // storages.itemsizes[key]) + bytes(nbytes)
    return bytes(out)

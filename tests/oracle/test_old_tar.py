"""Files of torch before 0.1.10: what relight reads is what torch.load gives."""

from __future__ import annotations

import random
import struct

import pytest

from relight.reader import values
from relight.reader.detect import open_checkpoint
from relight.reader.source import LocalSource
from relight.rulekit.example import File
from relight.testing.pickle_writer import PickleWriter
from relight.testing.recipes import write
from relight.testing.tar_writer import TarStorage, TarTensor, tar, tar_members

_FORMATS = {"float32": "f", "float64": "d", "int64": "q", "uint8": "B", "int16": "h", "float16": "e"}


def test_a_recipe(tmp_path) -> None:
    import torch

    path = write(File(tar=True), tmp_path / "old.ckpt")
    loaded = torch.load(path, weights_only=False)
    assert {k: tuple(v.shape) for k, v in loaded["state_dict"].items()} == {"net.weight": (2, 3), "net.bias": (2,)}
    assert loaded["pytorch-lightning_version"] == "2.6.6"
    with pytest.raises(RuntimeError, match=r"files saved in the legacy \.tar format"):
        torch.load(path)


@pytest.mark.parametrize("seed", range(20))
def test_random_tensors(tmp_path, seed: int) -> None:
    import torch

    draw = random.Random(seed)
    storages, tensors, views = [], [], []
    for key in range(draw.randint(1, 4)):
        dtype = draw.choice(sorted(_FORMATS))
        numel = draw.randint(1, 40)
        data = struct.pack(f"<{numel}{_FORMATS[dtype]}", *(draw.randint(0, 99) for _ in range(numel)))
        storages.append(TarStorage(key, data, dtype))
        lies_on, first, last = key, 0, numel
        if numel > 4 and draw.random() < 0.5:
            first, last = 1, numel - 2
            lies_on = 500 + key
            views.append((lies_on, key, first, last - first))
        for n in range(draw.randint(1, 3)):
            room = last - first
            rows = draw.randint(1, room)
            columns = draw.randint(1, room // rows)
            stride = draw.choice([(columns, 1), (1, rows)])
            offset = draw.randint(0, room - rows * columns)
            tensors.append(TarTensor(1000 + 10 * key + n, lies_on, (rows, columns), stride, offset))
    writer = PickleWriter()
    writer.raw(b"}(")
    for tensor in tensors:
        writer.value(f"t{tensor.key}")
        writer.value(str(tensor.key))
        writer.raw(b"Q")
    writer.raw(b"u")
    path = tmp_path / "old.pth"
    path.write_bytes(tar(tar_members(writer.finish(), storages, tensors, views)))
    loaded = torch.load(path, weights_only=False)
    found = open_checkpoint(path)
    assert not found.problems
    assert [t.key for t in found.tensors] == list(loaded)
    source = LocalSource(path)
    for entry in found.tensors:
        real = loaded[entry.key]
        assert f"torch.{entry.dtype}" == str(real.dtype)
        assert entry.shape == tuple(real.shape)
        assert entry.stride == real.stride()
        raw = b"".join(values.chunks(source, entry, found.storages[entry.storage_id or ""]))
        assert list(values.decode(raw, entry.dtype)) == real.flatten().tolist()
    source.close()

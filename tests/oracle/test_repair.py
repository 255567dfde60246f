"""What is written, the real torch reads: with weights_only=True, every tensor bit for bit."""

from __future__ import annotations

import dataclasses
import enum

import pytest
import torch
from repairing import repaired

from relight.core.edits import ConvertTensors, DropKeys, MakePlain, RenameKeys, SetDevice
from relight.facts.mapper.convert import convert
from relight.facts.mapper.pairs import KeyMap, Pair
from relight.reader import open_checkpoint

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8,
    torch.bool, torch.complex64, torch.uint16,
]  # fmt: skip


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def random_tensor(shape, dtype, generator):
    count = torch.empty(shape, dtype=dtype).nbytes
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (max(count, 1),), generator=generator, dtype=torch.uint8)
    return raw[:count].view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("layout", ["zip", "legacy", "zip without checksums"])
@pytest.mark.parametrize("seed", range(4))
def test_bit_for_bit(layout, seed, tmp_path):
    generator = torch.Generator().manual_seed(seed)
    state = {f"net.{i}.{d}": random_tensor((i % 3, 2, 3), d, generator) for i, d in enumerate(DTYPES)}
    state["net.view"] = state["net.1.torch.float64"].transpose(1, 2)
    state["net.tied"] = state["net.2.torch.float16"]
    path, output = tmp_path / "model.ckpt", tmp_path / "out.ckpt"
    if layout == "zip without checksums":
        torch.serialization.set_crc32_options(False)
    try:
        torch.save({"state_dict": state, "epoch": 3, "opt": [{"m": torch.ones(3)}]}, path,
                   _use_new_zipfile_serialization=layout != "legacy")  # fmt: skip
    finally:
        torch.serialization.set_crc32_options(True)
    drop = sorted(state)[seed]
    rename = {k: f"head.{k}" for k in state if k != drop}
    repaired(path, output, RenameKeys(tuple(rename.items())), DropKeys((drop,)))
    loaded = torch.load(output, weights_only=True)
    assert list(loaded["state_dict"]) == list(rename.values())
    for old, new in rename.items():
        got = loaded["state_dict"][new]
        assert (got.dtype, got.shape, got.stride()) == (state[old].dtype, state[old].shape, state[old].stride())
        assert bits(got) == bits(state[old])
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["opt"][0]["m"], torch.ones(3))
    if "head.net.tied" in loaded["state_dict"] and "head.net.2.torch.float16" in loaded["state_dict"]:
        one, two = loaded["state_dict"]["head.net.tied"], loaded["state_dict"]["head.net.2.torch.float16"]
        assert one.data_ptr() == two.data_ptr(), "tied weights stay tied"


OPS = [
    ("copy", [(4, 6)], (4, 6)),
    ("transpose", [(4, 6)], (6, 4)),
    ("transpose", [(4, 6, 2)], (2, 6, 4)),
    ("reshape", [(4, 6)], (8, 3)),
    ("transpose+reshape", [(4, 6)], (8, 3)),
    ("split:0:1/3", [(6, 4)], (2, 4)),
    ("split:1:0/2", [(6, 4)], (6, 2)),
    ("slice:0:1:4", [(6, 4)], (3, 4)),
    ("split:1:1/3+transpose", [(4, 6)], (2, 4)),
    ("concat:0", [(2, 3), (4, 3), (1, 3)], (7, 3)),
    ("concat:1", [(2, 3), (2, 5)], (2, 8)),
    ("concat:0+transpose", [(2, 3), (4, 3)], (3, 6)),
    ("stack:0", [(2, 3), (2, 3)], (2, 2, 3)),
    ("stack2:0", [(2,), (2,), (2,), (2,)], (2, 2, 2)),
    ("concat:0", [(0, 3), (2, 3)], (2, 3)),
    ("concat:0", [(3,), (4,)], (7,)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64], ids=str)
@pytest.mark.parametrize("turned", [False, True], ids=["", "of turned tensors"])
@pytest.mark.parametrize("op, shapes, result", OPS, ids=[o[0] + str(o[2]) for o in OPS])
def test_tensors_that_are_turned_cut_or_put_together(op, shapes, result, turned, dtype, tmp_path):
    generator = torch.Generator().manual_seed(1)
    state = {}
    for i, shape in enumerate(shapes):
        made = random_tensor(shape[::-1] if turned else shape, dtype, generator)
        state[f"p{i}"] = made.permute(*reversed(range(made.dim()))) if turned else made
    path, output = tmp_path / "model.ckpt", tmp_path / "out.ckpt"
    torch.save({"state_dict": {**state, "other": torch.ones(2)}}, path)
    repaired(path, output, ConvertTensors((("whole", tuple(state), op, result),)))
    loaded = torch.load(output, weights_only=True)["state_dict"]
    pair = Pair("whole", tuple(state), op, "certain", "")
    expected = convert(KeyMap(pairs={"whole": pair}, shapes={"whole": result}), state)["whole"]
    assert list(loaded) == ["whole", "other"]
    assert loaded["whole"].shape == torch.Size(result)
    assert bits(loaded["whole"]) == bits(expected)
    assert torch.equal(loaded["other"], torch.ones(2))
    assert torch.load(output, weights_only=True, mmap=True)["state_dict"]["whole"].shape == torch.Size(result)


def test_a_device_that_is_not_here(tmp_path):
    path, output = tmp_path / "model.ckpt", tmp_path / "out.ckpt"
    torch.save({"state_dict": {"a": torch.ones(3)}}, path)
    repaired(path, output, SetDevice("cuda:7"))
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(output)
    back = tmp_path / "back.ckpt"
    repaired(output, back, SetDevice("cpu"))
    assert torch.equal(torch.load(back)["state_dict"]["a"], torch.ones(3))


def test_safetensors(tmp_path):
    import json
    import struct

    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        "a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]},
        "c": {"dtype": "I8", "shape": [3], "data_offsets": [12, 15]},
    }
    raw = json.dumps(header).encode()
    path, output = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(range(15)))
    repaired(path, output, RenameKeys((("b", "net.b"),)), DropKeys(("a",)))
    found = open_checkpoint(output)
    assert found.problems == ()
    data = output.read_bytes()
    spans = {k: data[s.span.start : s.span.end] for k, s in found.storages.items()}
    assert spans == {"net.b": bytes(range(4, 12)), "c": bytes(range(12, 15))}


# ---------------------------------------------------------------- plain data


class _Mode(enum.Enum):
    TRAIN = "train"


@dataclasses.dataclass
class _Config:
    width: int = 8
    names: list = dataclasses.field(default_factory=lambda: ["a"])


def _values():
    import argparse
    import collections
    import pathlib

    import numpy
    from omegaconf import OmegaConf

    inner = argparse.Namespace(lr=0.5)
    raw = {"bytes": b"\x00\xff", "set": {1}, "big": 1 << 70, "nested": ([1], (2,))}
    return {
        "args": (argparse.Namespace(width=8, inner=inner, items="x"), _answers_as_a_namespace),
        "path": (pathlib.PurePosixPath("/data/x"), lambda v: v == "/data/x"),
        "float": (numpy.float32(0.1), lambda v: v == float(numpy.float32(0.1)) and type(v) is float),
        "int": (numpy.int64(-3), lambda v: v == -3 and type(v) is int),
        "bool": (numpy.bool_(True), lambda v: v is True),
        "array": (numpy.arange(6).reshape(2, 3), lambda v: v == [[0, 1, 2], [3, 4, 5]]),
        "default": (collections.defaultdict(int, a=1), lambda v: v == {"a": 1}),
        "frozen": (frozenset([1, 2]), lambda v: v == {1, 2}),
        "mode": (_Mode.TRAIN, lambda v: v == "train"),
        "cfg": (_Config(), lambda v: v.width == 8 and v.names == ["a"]),
        "omega": (OmegaConf.create({"a": {"b": [1, {"c": 0.5}]}, "s": "x"}), _answers_as_a_configuration),
        "raw": (raw, lambda v: v == raw),
    }


def _answers_as_a_namespace(v):
    return (v.width, v["width"], vars(v)["width"], v.inner.lr, v.items) == (8, 8, 8, 0.5, "x")


def _answers_as_a_configuration(v):
    return v.a.b[1].c == 0.5 and v["s"] == "x"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", sorted(_values()))
def test_objects_as_plain_data(name, protocol, tmp_path):
    """What torch refuses in the file, it reads in the copy, and the values answer as before."""
    value, holds = _values()[name]
    path, output = tmp_path / "model.ckpt", tmp_path / "out.ckpt"
    torch.save({"state_dict": {"w": torch.ones(3)}, "hyper_parameters": {"x": value}}, path, pickle_protocol=protocol)
    if name != "raw" and protocol == 2:
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(path, weights_only=True)
    repaired(path, output, MakePlain(objects=True))
    loaded = torch.load(output, weights_only=True)
    assert holds(loaded["hyper_parameters"]["x"]), loaded["hyper_parameters"]["x"]
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(3))
    for module in (b"argparse", b"omegaconf", b"numpy", b"pathlib", b"test_repair"):
        assert module not in output.read_bytes(), "nothing of the old pickle stays"


def test_code_does_not_stay_in_the_copy(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("a payload that nobody wants",))

    path, output = tmp_path / "model.ckpt", tmp_path / "out.ckpt"
    torch.save({"state_dict": {"w": torch.ones(3)}, "hyper_parameters": {"x": Evil(), "width": 8}}, path)
    repaired(path, output, MakePlain(objects=True, drop=True))
    loaded = torch.load(output, weights_only=True)
    assert loaded["hyper_parameters"] == {"width": 8}
    assert b"payload" not in output.read_bytes()
    assert b"print" not in output.read_bytes()

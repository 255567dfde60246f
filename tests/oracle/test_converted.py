"""What convert writes, the real torch and safetensors read: every tensor bit for bit, by every way of loading."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from repairing import plan_of

import relight
from relight.core.edits import RenameKeys
from relight.repair.converting import convert

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, on quantized and sparse tensors

CORPUS = Path(__file__).parents[1] / "corpus"


def bits(tensor):
    return tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        other = right[key]
        assert type(value) is type(other), key
        assert (value.dtype, value.shape, value.layout) == (other.dtype, other.shape, other.layout), key
        if value.layout is not torch.strided or value.is_quantized:
            value, other = (
                (value.dequantize(), other.dequantize()) if value.is_quantized else (value.to_dense(), other.to_dense())
            )
        if value.device.type != "meta":
            assert bits(value) == bits(other), key


@pytest.mark.parametrize("name", ["kinds.pt", "legacy.pt"])
def test_every_kind_of_tensor(name, tmp_path):
    path = CORPUS / "reader" / name
    convert(str(path), str(tmp_path / "w.safetensors"))
    convert(str(tmp_path / "w.safetensors"), str(tmp_path / "back.pt"))
    convert(str(path), str(tmp_path / "again.pt"))
    before = loaded(path)
    same(before, loaded(tmp_path / "back.pt"))
    same(before, loaded(tmp_path / "again.pt"))
    same(before, loaded(tmp_path / "again.pt", mmap=True))


def loaded(path, **how):
    import __main__

    __main__.Tagged = type("Tagged", (torch.Tensor,), {})
    return {
        k: v.as_subclass(torch.Tensor) if type(v).__name__ == "Tagged" else v
        for k, v in torch.load(path, weights_only=False, **how).items()
    }


@pytest.mark.parametrize("kind", ["legacy", "protocol 4", "zip"])
def test_every_way_of_loading(kind, tmp_path):
    state = {f"net.{i}": torch.randn(i, 5 + i) for i in range(4)} | {"half": torch.ones(3).half()}
    content = {"state_dict": state, "epoch": 3, "opt": [{"m": torch.ones(3)}]}
    path, output = tmp_path / "model.ckpt", tmp_path / "out.ckpt"
    torch.save(
        content, path, _use_new_zipfile_serialization=kind != "legacy", pickle_protocol=4 if kind[-1] == "4" else 2
    )
    convert(str(path), str(output))
    for how in ({}, {"mmap": True}, {"map_location": "meta"}):
        found = torch.load(output, weights_only=True, **how)
        assert found["epoch"] == 3
        assert list(found["state_dict"]) == list(state)
        if "map_location" not in how:
            same(state, found["state_dict"])
            assert torch.equal(found["opt"][0]["m"], content["opt"][0]["m"])
        # Where a storage is: torch computes that from sizes alone where a file says that it may.
    with torch._subclasses.fake_tensor.FakeTensorMode():
        fake = torch.load(output, weights_only=True)
    data = output.read_bytes()
    for key, value in state.items():
        start = fake["state_dict"][key].untyped_storage()._checkpoint_offset
        assert data[start : start + value.nbytes] == bytes(bits(value)), key


def test_other_programs_read_the_weights(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    path = CORPUS / "checkpoints" / "E26" / "full.ckpt"
    convert(str(path), str(tmp_path / "w.safetensors"))
    same(dict(torch.load(path, weights_only=True)["state_dict"]), library.load_file(tmp_path / "w.safetensors"))
    moments = library.load_file(tmp_path / "w.rest.safetensors")
    saved = torch.load(path, weights_only=True)["optimizer_states"][0]["state"][0]["exp_avg"]
    assert torch.equal(moments["optimizer_states.0.state.0.exp_avg"], saved)
    convert(str(CORPUS / "reader" / "kinds.pt"), str(tmp_path / "kinds.safetensors"))
    odd = library.load_file(tmp_path / "kinds.safetensors")
    truth = {k: v.detach() for k, v in loaded(CORPUS / "reader" / "kinds.pt").items()}
    same({k: truth[k] for k in odd}, odd)
    assert {"view", "transposed", "expanded", "float8_e4m3fn", "uint64", "tied"} <= odd.keys()
    assert not {"conjugated", "coo", "quantized"} & odd.keys()


def test_shards(tmp_path):
    expected = json.loads((CORPUS / "reader" / "distributed" / "expected.json").read_text())
    for name in ("hf_index", "hf_pieces", "hf_consolidated"):
        convert(str(CORPUS / "reader" / "distributed" / name), str(tmp_path / f"{name}.pt"))
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert {k: v.float().flatten().tolist()[:4] for k, v in found.items()} == {
            k: torch.tensor(v[2]).float().flatten().tolist()[:4] for k, v in expected[name].items()
        }


def test_a_file_repaired_in_place(tmp_path):
    """The new version, by every way of loading; the offsets that torch computes are those of the old records."""
    state = {f"net.{i}": torch.randn(i + 1, 5 + i) for i in range(4)}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "epoch": 3}, path)
    whole = path.read_bytes()
    plan = plan_of(path, RenameKeys(tuple((k, f"model.{k}") for k in state)))
    assert relight.fix(path, None, in_place=True, plan=plan).proved
    renamed = {f"model.{k}": v for k, v in state.items()}
    for how in ({}, {"mmap": True}, {"weights_only": False}):
        found = torch.load(path, **{"weights_only": True, **how})
        assert found["epoch"] == 3
        same(renamed, found["state_dict"])
    assert list(torch.load(path, map_location="meta", weights_only=True)["state_dict"]) == list(renamed)
    with torch._subclasses.fake_tensor.FakeTensorMode():
        fake = torch.load(path, weights_only=True)
    data = path.read_bytes()
    for key, value in renamed.items():
        start = fake["state_dict"][key].untyped_storage()._checkpoint_offset
        assert data[start : start + value.nbytes] == bytes(bits(value)), key
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    relight.undo(path)
    assert path.read_bytes() == whole

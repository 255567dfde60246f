"""Folders of other frameworks as one file: weights and moments, against what those frameworks make of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest

from relight.core.errors import ConversionError
from relight.core.objects import ListNode, mapping_get, mapping_pairs
from relight.reader import open_checkpoint
from relight.reader.tensors import TensorReader
from relight.repair.converting import convert
from relight.repair.deepspeed_material import _Flat
from relight.repair.stored import Literal

READER = Path(__file__).parents[2] / "corpus" / "reader"
TRUTHS = json.loads((READER / "folders.json").read_text())
ZERO = "deepspeed_zero3"


def values(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    found = open_checkpoint(path)
    assert found.problems == ()
    data = path.read_bytes()
    out = {}
    for t in found.tensors:
        span = found.storages[t.storage_id].span
        out[t.key] = (t.dtype, list(t.shape), data[span.start : span.end])
    return out


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_weights_are_those_of_the_framework_itself(name, suffix, tmp_path):
    output = tmp_path / f"one.{suffix}"
    assert convert(str(READER / "folders" / name), str(output)).proved
    found = {
        k: {"dtype": dtype, "shape": shape, "sha256": hashlib.sha256(raw).hexdigest()[:16]}
        for k, (dtype, shape, raw) in values(output).items()
    }
    assert found == TRUTHS[name]


def moments(path: Path) -> list[dict[str, tuple[tuple[int, ...], bytes]]]:
    """Of every parameter of the first optimizer: its states that are tensors."""
    found = open_checkpoint(path)
    data = path.read_bytes()
    states = mapping_get(found.root, "optimizer_states")
    assert isinstance(states, ListNode)
    out = []
    for number, (key, state) in enumerate(mapping_pairs(mapping_get(states.items[0], "state"))):
        assert key == number
        out.append({})
        for name, value in mapping_pairs(state):
            t = TensorReader(found.storages).read(value, name, found.state_dict_path)
            span = found.storages[t.storage_id].span
            out[-1][name] = (t.shape, data[span.start : span.end])
    return out


@pytest.mark.parametrize("name", ["deepspeed_zero2_bf16", "deepspeed_zero3"])
def test_moments_follow_the_parameters(name, tmp_path):
    output = tmp_path / "one.ckpt"
    done = convert(str(READER / "folders" / name), str(output))
    assert done.left_out == ()
    found = moments(output)
    shapes = [t.shape for t in open_checkpoint(output).tensors]
    assert [m["exp_avg"][0] for m in found] == shapes
    assert [m["exp_avg_sq"][0] for m in found] == shapes
    assert [m["step"] for m in found] == [((), struct.pack("<f", 3))] * 6
    root = open_checkpoint(output).root
    group = mapping_get(mapping_get(root, "optimizer_states").items[0], "param_groups").items[0]
    assert mapping_get(group, "params").items == list(range(6))
    assert (mapping_get(root, "epoch"), mapping_get(root, "global_step")) == (2, 8)
    assert not {k for k, _ in mapping_pairs(root)} & {"ds_config", "module", "param_shapes"}
    keys = [t.storage_id for t in open_checkpoint(output).tensors]
    assert len(set(keys)) == len(keys)


def test_moments_of_two_ways_to_cut(tmp_path):
    """The same training under ZeRO 2 (a flat run, cut once) and ZeRO 3 (each parameter cut): the same moments."""
    read = []
    for name in ("deepspeed_zero2", "deepspeed_zero3"):
        convert(str(READER / "folders" / name), str(tmp_path / f"{name}.pt"))
        read.append(moments(tmp_path / f"{name}.pt"))
    for one, two in zip(*read, strict=True):
        for field in ("exp_avg", "exp_avg_sq"):
            count = len(one[field][1]) // 4
            a, b = (struct.unpack(f"<{count}f", m[field][1]) for m in (one, two))
            assert a == pytest.approx(b, abs=1e-6)
            assert any(a)


def test_numbers_of_parameters_are_numbers_again(tmp_path):
    """torch.distributed.checkpoint makes texts of keys; Optimizer.load_state_dict would find no state under them."""
    output = tmp_path / "one.ckpt"
    done = convert(str(READER / "folders" / "dcp_lightning_state"), str(output))
    assert ("empty dicts and lists", "this layout does not record them") in done.left_out
    assert len(moments(output)) == 6


def test_optimizers_of_lightning_are_in_their_place(tmp_path):
    output = tmp_path / "one.ckpt"
    done = convert(str(READER / "folders" / "model_parallel_sharded"), str(output))
    assert ("optimizer_0", "-> optimizer_states") in done.changes
    root = open_checkpoint(output).root
    states = mapping_get(mapping_get(root, "optimizer_states").items[0], "state")
    assert {k for k, _ in mapping_pairs(states)} == TRUTHS["model_parallel_sharded"].keys()
    assert mapping_get(root, "pytorch-lightning_version") == "2.6.6"


@pytest.mark.parametrize("name", ["tiny.dcp", "distributed/native"])
def test_other_states(name, tmp_path):
    """A folder that no Lightning wrote, and one whose files are safetensors, with pieces cut by rows and by columns."""
    convert(str(READER / name), str(tmp_path / "one.pt"))
    found = values(tmp_path / "one.pt")
    if name == "tiny.dcp":
        listed = open_checkpoint(READER / name)
        assert {k: (v[0], v[1]) for k, v in found.items()} == {t.key: (t.dtype, list(t.shape)) for t in listed.tensors}
        return
    expected = json.loads((READER / "distributed" / "expected.json").read_text())["hf_index"]
    assert found["emb"][2] == struct.pack("<12q", *map(int, expected["emb"][2]))
    assert found["net.weight"][2] == struct.pack("<20f", *expected["net.weight"][2])
    assert found["net.bias"][2] == struct.pack("<5d", *expected["net.bias"][2])


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    "name, gone, said",
    [
        (ZERO, "checkpoint/zero_pp_rank_1_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        (ZERO, "checkpoint/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"),
        ("deepspeed_zero2_bf16", "checkpoint/mp_rank_00_model_states.pt", "no file of model states"),
        ("deepspeed_zero2_bf16", "checkpoint/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_0"),
        ("model_parallel_sharded", "__1_0.distcp", "__1_0.distcp: the metadata need this file"),
        ("model_parallel_sharded", ".metadata", "there is no .metadata"),
    ],
)
def test_a_missing_file_is_named_and_nothing_written(name, gone, said, tmp_path):
    folder = shutil.copytree(READER / "folders" / name, tmp_path / name)
    (folder / gone).unlink()
    with pytest.raises(ConversionError, match=said):
        convert(str(folder), str(tmp_path / "one.ckpt"))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_all_of_the_optimizer_files_are_missing(tmp_path):
    folder = shutil.copytree(READER / "folders" / ZERO, tmp_path / ZERO)
    for file in folder.glob("checkpoint/*optim*"):
        file.unlink()
    with pytest.raises(ConversionError, match="which hold the weights"):
        convert(str(folder), str(tmp_path / "one.ckpt"))


def test_tensor_parallelism_is_refused(tmp_path):
    folder = shutil.copytree(READER / "folders" / "deepspeed_zero2_bf16", tmp_path / "x")
    main = folder / "checkpoint" / "mp_rank_00_model_states.pt"
    shutil.copy(main, main.with_name("mp_rank_01_model_states.pt"))
    with pytest.raises(ConversionError, match="tensor parallelism"):
        convert(str(folder), str(tmp_path / "one.ckpt"))


def test_two_steps_and_no_latest(tmp_path):
    folder = shutil.copytree(READER / "folders" / "deepspeed_zero2_bf16", tmp_path / "x")
    shutil.copytree(folder / "checkpoint", folder / "global_step9")
    assert convert(str(folder), str(tmp_path / "one.ckpt")).proved
    (folder / "latest").unlink()
    with pytest.raises(ConversionError, match="several steps"):
        convert(str(folder), str(tmp_path / "two.ckpt"))


def test_a_folder_that_is_no_checkpoint(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("hello")
    with pytest.raises(ConversionError, match="a folder with 1 file"):
        convert(str(tmp_path / "folder"), str(tmp_path / "one.ckpt"))


def test_a_flat_run_that_lies_in_parts():
    flat = _Flat("uint8", ((Literal(b"abc"), 3), (Literal(b"defg"), 4)))
    assert [(r.source.nbytes, r.start, r.length) for r in flat.slice(1, 4)] == [(3, 1, 2), (4, 0, 2)]
    with pytest.raises(Exception, match="fewer values"):
        flat.slice(5, 3)

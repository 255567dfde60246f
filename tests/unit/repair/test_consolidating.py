"""Folders of other frameworks as one file: weights and moments, against what those frameworks make of them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from pathlib import Path

import pytest

from relight.core.dtypes import BY_NAME
from relight.core.errors import ConversionError
from relight.core.objects import ListNode, mapping_get, mapping_pairs
from relight.reader import open_checkpoint
from relight.reader.archive import Archive
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
        size = BY_NAME[t.dtype].itemsize  # of one among others in a storage, as in the files of a framework
        start = found.storages[t.storage_id].span.start + t.offset * size
        out[t.key] = (t.dtype, list(t.shape), data[start : start + t.numel * size])
    return out


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_weights_are_those_of_the_framework_itself(name, suffix, tmp_path):
    output = tmp_path / f"one.{suffix}"
    assert convert(str(READER / "folders" / name), str(output)).proved
    found = {}
    for key, (dtype, shape, raw) in values(output).items():
        if (dtype, TRUTHS[name][key]["dtype"], key) == ("bfloat16", "float32", "scale"):
            # DeepSpeed's own converter makes float32 of buffers; they stay what they were, and the values are the same.
            dtype, raw = "float32", b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
        found[key] = {"dtype": dtype, "shape": shape, "sha256": hashlib.sha256(raw).hexdigest()[:16]}
    assert found == TRUTHS[name]


def test_full_precision_that_deepspeed_does_not_put_together(tmp_path):
    """BF16_Optimizer states no ZeRO stage, and zero_to_fp32 takes its folders for none of ZeRO; frozen parameters stay."""
    folder = READER / "folders" / "deepspeed_0_16_9_zero1_bf16_optimizer"
    assert convert(str(folder), str(tmp_path / "one.ckpt")).left_out == ()
    found = values(tmp_path / "one.ckpt")
    main = folder / "checkpoint" / "mp_rank_00_model_states.pt"
    used = values(main)
    assert found.keys() == used.keys() == {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias", "scale",
                                           "frozen.weight", "frozen.bias"}  # fmt: skip
    for key, (dtype, shape, raw) in used.items():
        trained = key.partition(".")[0] in ("a", "b", "c")
        assert found[key][:2] == ("float32" if trained else dtype, shape)
        if not trained:
            assert found[key][2] == raw
            continue
        # What the model computes with is the full precision, rounded to even.
        words = struct.unpack(f"<{len(raw) // 2}I", found[key][2])
        assert struct.pack(f"<{len(words)}H", *((w + 0x7FFF + (w >> 16 & 1)) >> 16 for w in words)) == raw
    assert any(w & 0xFFFF for w in words), "it is more than what the model computes with"
    shapes = [m["exp_avg"][0] for m in moments(tmp_path / "one.ckpt")]
    assert shapes == [(7, 5), (5, 3), (7,), (5,), (7,)]


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


@pytest.mark.parametrize(
    "name, fields, version",
    [
        ("fsdp2", {"momentum_buffer"}, "2.2.5"),
        ("fsdp_lightning_2_2", {"exp_avg", "exp_avg_sq", "step"}, "2.2.5"),
        ("fsdp_torch_2_0", {"exp_avg", "step"}, "2.2.5"),
    ],
)
def test_states_of_fsdp(name, fields, version, tmp_path):
    """Both generations of FSDP, and three of the metadata: rows that two processes share unevenly come together."""
    output = tmp_path / "one.ckpt"
    done = convert(str(READER / "folders" / name), str(output))
    assert {("model", "-> state_dict"), ("optimizer_0", "-> optimizer_states")} <= set(done.changes)
    found = open_checkpoint(output)
    data = output.read_bytes()
    optimizer = mapping_get(found.root, "optimizer_states").items[0]
    states = dict(mapping_pairs(mapping_get(optimizer, "state")))
    assert mapping_get(mapping_get(optimizer, "param_groups").items[0], "params").items == list(TRUTHS[name])[::-1]
    assert states.keys() == TRUTHS[name].keys()
    for key, state in states.items():
        assert {k for k, _ in mapping_pairs(state)} == fields
        for field, value in mapping_pairs(state):
            t = TensorReader(found.storages).read(value, field, found.state_dict_path)
            assert list(t.shape) == ([] if field == "step" else TRUTHS[name][key]["shape"])
    assert (mapping_get(found.root, "epoch"), mapping_get(found.root, "global_step")) == (2, 3)
    assert mapping_get(found.root, "pytorch-lightning_version") == version
    if name == "fsdp_torch_2_0":  # the moments were made twice the weights
        weight, moment = values(output)["net.weight"][2], mapping_get(states["net.weight"], "exp_avg")
        span = found.storages[TensorReader(found.storages).read(moment, "m", found.state_dict_path).storage_id].span
        twice = [2 * x for x in struct.unpack("<35f", weight)]
        assert list(struct.unpack("<35f", data[span.start : span.end])) == twice


def test_one_parameter_under_two_names_stays_one(tmp_path):
    convert(str(READER / "folders" / "deepspeed_0_16_9_zero2_fp32"), str(tmp_path / "one.ckpt"))
    storages = {t.key: t.storage_id for t in open_checkpoint(tmp_path / "one.ckpt").tensors}
    assert storages["a.weight"] == storages["c.weight"]
    assert len(set(storages.values())) == len(storages) - 1


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


# ---------------------------------------------------------------- what has changed


def flipped(folder: Path, file: str) -> None:
    """Change one bit of the last tensor of a file, or of its last item, which is a file of torch.save."""
    path = folder / file
    data = bytearray(path.read_bytes())
    name = re.findall(rb"PK\x03\x04.{26}([^/]+/data/[0-9]+)", data, re.DOTALL)[-1]
    header = re.search(rb"PK\x03\x04.{22}(.{4})" + re.escape(name), data[: data.rindex(b"PK\x01\x02")], re.DOTALL)
    data[header.end() + struct.unpack("<2H", header[1])[1] + 1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(
    "name, file",
    [("fsdp2", "__0_0.distcp"), ("fsdp_lightning_2_2", "__1_0.distcp"), ("fsdp_torch_2_0", "__1_0.distcp"),
     ("model_parallel_sharded", "__0_0.distcp"), (ZERO, "checkpoint/zero_pp_rank_1_mp_rank_00_optim_states.pt")],
)  # fmt: skip
def test_a_flipped_bit_of_a_piece_is_not_carried_over(name, file, suffix, tmp_path, monkeypatch):
    """A piece has no checksum of its own: what the file records of the whole is asked, however large the file is."""
    monkeypatch.setattr(Archive, "check_small", lambda self: None)
    folder = shutil.copytree(READER / "folders" / name, tmp_path / name)
    flipped(folder, file)
    with pytest.raises(ConversionError, match=f"it is damaged: {Path(file).name}: the checksum of .* is wrong"):
        convert(str(folder), str(tmp_path / f"one.{suffix}"))
    assert [p.name for p in tmp_path.iterdir()] == [name]


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
        ("fsdp2", "__0_0.distcp", "__0_0.distcp: the metadata need this file"),
        ("fsdp_lightning_2_2", "__1_0.distcp", "__1_0.distcp: the metadata need this file"),
        ("fsdp_torch_2_0", "__0_0.distcp", "__0_0.distcp: the metadata need this file"),
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

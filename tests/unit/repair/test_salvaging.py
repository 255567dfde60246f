"""What is intact in a damaged file is written, bit by bit; what is not is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from relight.core.errors import ConversionError
from relight.core.objects import mapping_get, mapping_pairs
from relight.reader import open_checkpoint
from relight.repair.converting import convert
from relight.rulekit import File
from relight.testing import write

CORPUS = Path(__file__).parents[2] / "corpus"
FULL = CORPUS / "checkpoints" / "E26" / "full.ckpt"


def values(path: Path) -> dict[str, bytes]:
    found = open_checkpoint(path)
    data = path.read_bytes()
    return {
        t.key: data[found.storages[t.storage_id].span.start :][: found.storages[t.storage_id].nbytes]
        for t in found.tensors
    }


def salvaged(path: Path, tmp_path: Path, suffix: str = "ckpt"):
    output = tmp_path / f"out.{suffix}"
    done = convert(str(path), str(output), salvage=True)
    assert open_checkpoint(output).problems == ()
    return done, values(output)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("step", range(1, 20))
def test_a_file_that_is_cut_off(step, suffix, tmp_path):
    """Every tensor that is there before the cut, as it was; the others by name; other entries only where all of them is."""
    truth = values(FULL)
    data = FULL.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(data[: len(data) * step // 20])
    there = [t.key for t in open_checkpoint(path).tensors]
    if not there:
        with pytest.raises(ConversionError):
            salvaged(path, tmp_path, suffix)
        assert [p.name for p in tmp_path.iterdir()] == ["cut.ckpt"]
        return
    done, found = salvaged(path, tmp_path, suffix)
    assert found == {k: truth[k] for k in there}
    listed = dict(done.left_out)
    assert truth.keys() - found.keys() <= listed.keys()
    if suffix == "ckpt":
        before, after = open_checkpoint(FULL).root, open_checkpoint(tmp_path / "out.ckpt").root
        gone = {k for k, _ in mapping_pairs(before)} - {k for k, _ in mapping_pairs(after)}
        assert gone <= listed.keys()
        assert mapping_get(after, "epoch") == 2
        assert ("optimizer_states" in gone) == (step < 17)


def damaged(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "flipped.ckpt"
    data = bytearray(FULL.read_bytes())
    found = open_checkpoint(FULL)
    record = next(r for r in found.records if r.name == key)
    data[record.span.start + record.span.length // 2] ^= 0x10
    path.write_bytes(bytes(data))
    return path


def test_a_flipped_bit_of_a_weight(tmp_path, monkeypatch):
    truth = values(FULL)
    done, found = salvaged(damaged(tmp_path, "data/1", monkeypatch), tmp_path)
    assert found == {k: v for k, v in truth.items() if k != "net.0.bias"}
    assert done.left_out == (("net.0.bias", "the checksum of its storage is wrong: bytes have changed"),)
    assert ("damage", "data/1: the checksum of the record is wrong: bytes have changed") in done.changes


def test_a_flipped_bit_of_a_moment(tmp_path, monkeypatch):
    done, found = salvaged(damaged(tmp_path, "data/9", monkeypatch), tmp_path)
    assert found == values(FULL)
    assert [what for what, _ in done.left_out] == ["optimizer_states"]


def test_a_flipped_bit_of_the_pickle(tmp_path, monkeypatch):
    """Where nobody can tell what the pickle said, only tensors that still make sense are taken, and that is said."""
    done, found = salvaged(damaged(tmp_path, "data.pkl", monkeypatch), tmp_path)
    assert set(found.values()) <= set(values(FULL).values())
    assert done.left_out[0] == ("everything but the tensors of the state_dict", "the pickle that holds it is damaged")


def test_what_is_whole_is_whole(tmp_path):
    done, found = salvaged(FULL, tmp_path)
    assert (done.left_out, found) == ((), values(FULL))


@pytest.mark.parametrize("legacy", [True, False])
def test_other_layouts_that_are_cut_off(legacy, tmp_path):
    path = write(File(tensors={"a": (40,), "b": (60,)}, legacy=legacy), tmp_path / "x.ckpt")
    if not legacy:
        convert(str(path), str(tmp_path / "x.safetensors"), rest=False)
        path = tmp_path / "x.safetensors"
    whole = values(path)
    path.write_bytes(path.read_bytes()[:-100])
    done, found = salvaged(path, tmp_path)
    assert found == {"a": whole["a"]}
    assert "b" in dict(done.left_out)


@pytest.mark.parametrize("name", ["html_page.ckpt", "encrypted_zip.ckpt", "torchscript.ckpt", "gzip_wrapped.ckpt"])
def test_nothing_to_salvage(name, tmp_path):
    with pytest.raises(ConversionError, match="nothing of it can be had"):
        salvaged(CORPUS / "reader" / "broken" / name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["broken/full_nn_pickle.pt", "module.pt"])
def test_a_whole_module(name, tmp_path):
    done, found = salvaged(CORPUS / "reader" / name, tmp_path)
    assert done.left_out == ()
    assert found.values()


def test_bytes_in_front(tmp_path):
    done, found = salvaged(CORPUS / "reader" / "broken" / "leading_garbage.ckpt", tmp_path)
    assert (len(found), done.left_out) == (4, ())


def test_without_asking_nothing_is_salvaged(tmp_path):
    path = tmp_path / "cut.ckpt"
    shutil.copy(FULL, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConversionError, match="--salvage writes what is intact"):
        convert(str(path), str(tmp_path / "out.ckpt"))


# ---------------------------------------------------------------- folders

READER = CORPUS / "reader"


def of_folder(folder: Path, tmp_path: Path):
    done = convert(str(folder), str(tmp_path / "out.ckpt"), salvage=True)
    assert open_checkpoint(tmp_path / "out.ckpt").problems == ()
    return done, values(tmp_path / "out.ckpt")


def whole(name: str, tmp_path: Path) -> dict[str, bytes]:
    convert(str(READER / name), str(tmp_path / "whole.ckpt"))
    return values(tmp_path / "whole.ckpt")


@pytest.mark.parametrize("name, gone", [("hf_index", "model-00001-of-00002.safetensors"), ("native", "__0_0.distcp")])
def test_a_missing_shard(name, gone, tmp_path):
    """What the other shards hold whole; what is gone is named, each tensor with the file that had it."""
    truth = whole(f"distributed/{name}", tmp_path)
    folder = shutil.copytree(READER / "distributed" / name, tmp_path / "folder")
    (folder / gone).unlink()
    with pytest.raises(ConversionError, match="--salvage writes what is intact"):
        convert(str(folder), str(tmp_path / "out.ckpt"))
    done, found = of_folder(folder, tmp_path)
    assert found
    assert found == {k: truth[k] for k in found}
    assert dict(done.left_out).keys() == truth.keys() - found.keys()
    assert all(gone in reason for _, reason in done.left_out)
    assert [how for what, how in done.changes if what == "damage" and how.startswith(gone)]


def test_one_process_is_missing_of_pieces(tmp_path):
    """Nothing says how large a tensor is, or how many processes there were: that is said."""
    folder = shutil.copytree(READER / "distributed" / "hf_pieces", tmp_path / "folder")
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    truth = whole("distributed/hf_pieces", tmp_path)
    done, found = of_folder(folder, tmp_path)
    assert found == {"net.bias": truth["net.bias"]}  # this process had all of it
    assert dict(done.left_out).keys() == {"net.weight", "emb", "half"}
    assert ("processes", "1, by what is there: this layout does not record how many there were") in done.changes


def test_a_shard_that_is_cut_off(tmp_path):
    truth = whole("distributed/hf_index", tmp_path)
    folder = shutil.copytree(READER / "distributed" / "hf_index", tmp_path / "folder")
    shard = folder / "model-00002-of-00002.safetensors"
    last = max(open_checkpoint(shard).storages.items(), key=lambda item: item[1].span.start)[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    done, found = of_folder(folder, tmp_path)
    assert found == {k: v for k, v in truth.items() if k != last}
    assert [what for what, _ in done.left_out] == [last]


@pytest.mark.parametrize("place", ["a weight", "a moment"])
def test_a_flipped_bit_in_a_shard_of_torch(place, tmp_path, monkeypatch):
    """By tensor in the model; elsewhere all of the entry, since a part of an optimizer's states is none."""
    truth = whole("folders/dcp_lightning_state", tmp_path)
    folder = shutil.copytree(READER / "folders" / "dcp_lightning_state", tmp_path / "folder")
    shard = folder / "__0_0.distcp"
    data = bytearray(shard.read_bytes())
    moment = next(iter(moments(tmp_path / "whole.ckpt").values()))
    at = data.index(truth["net.2.weight"] if place == "a weight" else moment)
    data[at + 3] ^= 1
    shard.write_bytes(bytes(data))
    done, found = of_folder(folder, tmp_path)
    lost = dict(done.left_out)
    lost.pop("empty dicts and lists")
    if place == "a weight":
        assert found == {k: v for k, v in truth.items() if k != "net.2.weight"}
        assert lost.keys() == {"net.2.weight"}
    else:
        assert found == truth
        assert lost.keys() == {"optimizer_states"}
    assert all("the checksum of" in reason for reason in lost.values())
    assert mapping_get(open_checkpoint(tmp_path / "out.ckpt").root, "epoch") == 2


def moments(path: Path) -> dict[str, bytes]:
    """Every storage that no tensor of the model has, and that is large enough to be found."""
    found = open_checkpoint(path)
    data = path.read_bytes()
    own = {t.storage_id for t in found.tensors}
    return {k: data[s.span.start : s.span.end] for k, s in found.storages.items() if k not in own and s.nbytes > 64}


@pytest.mark.parametrize("name, said", [("fsdp2", "nothing of its weights is intact: __1_0.distcp is missing"),
                                        ("dcp_lightning_state", "there is no .metadata")])  # fmt: skip
def test_nothing_of_a_folder(name, said, tmp_path):
    """Each process of FSDP has rows of every weight: without one of them none is whole."""
    folder = shutil.copytree(READER / "folders" / name, tmp_path / "folder")
    (folder / ("__1_0.distcp" if name == "fsdp2" else ".metadata")).unlink()
    with pytest.raises(ConversionError, match=said):
        convert(str(folder), str(tmp_path / "out.ckpt"), salvage=True)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_of_deepspeed(tmp_path):
    """What can be had is said: where the weights are whole that the model computed with, which are not of full precision."""
    folder = shutil.copytree(READER / "folders" / "deepspeed_zero2_bf16", tmp_path / "folder")
    assert convert(str(folder), str(tmp_path / "out.ckpt"), salvage=True).left_out == ()
    (folder / "checkpoint" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    main = folder / "checkpoint" / "mp_rank_00_model_states.pt"
    with pytest.raises(ConversionError, match=f"so nothing of it is salvaged: .*whole in {main}, which can be"):
        convert(str(folder), str(tmp_path / "two.ckpt"), salvage=True)
    assert len(values_of_model(main, tmp_path)) == 6
    folder = shutil.copytree(READER / "folders" / "deepspeed_zero3", tmp_path / "three")
    (folder / "checkpoint" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(ConversionError, match=r"processes wrote it$"):
        convert(str(folder), str(tmp_path / "three.ckpt"), salvage=True)


def values_of_model(path: Path, tmp_path: Path) -> dict[str, bytes]:
    convert(str(path), str(tmp_path / "model.safetensors"), only="weights")
    return values(tmp_path / "model.safetensors")


def test_a_whole_folder_is_whole(tmp_path):
    done, found = of_folder(READER / "folders" / "model_parallel_sharded", tmp_path)
    assert (done.left_out, found) == ((), whole("folders/model_parallel_sharded", tmp_path))

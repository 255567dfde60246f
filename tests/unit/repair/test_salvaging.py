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

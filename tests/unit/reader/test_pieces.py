"""Folders of safetensors that torch.distributed.checkpoint wrote; torch's own reading of them is in the corpus."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import open_checkpoint, values
from relight.reader.source import LocalSource

CORPUS = Path(__file__).parents[2] / "corpus" / "reader" / "distributed"
EXPECTED = json.loads((CORPUS / "expected.json").read_text())


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(CORPUS / name, tmp_path / name))


def kinds(found: Checkpoint) -> set[ProblemKind]:
    return {p.kind for p in found.problems} - {ProblemKind.UNSUPPORTED}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_what_torch_reads(name: str) -> None:
    found = open_checkpoint(CORPUS / name)
    assert found.layout is Layout.SHARDED
    assert not kinds(found)
    assert {t.key: [t.dtype, list(t.shape)] for t in found.tensors} == {k: v[:2] for k, v in EXPECTED[name].items()}
    assert safety(found) is Safety.OK


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_values_of_tensors_in_one_piece(name: str) -> None:
    found = open_checkpoint(CORPUS / name)
    whole = [t for t in found.tensors if t.storage_id is not None]
    assert "net.bias" in {t.key for t in whole}
    for tensor in whole:
        file = (tensor.storage_id or "").partition(":")[0]
        source = LocalSource(CORPUS / name / file)
        raw = b"".join(values.chunks(source, tensor, found.storages[tensor.storage_id or ""]))
        source.close()
        assert list(values.decode(raw, tensor.dtype)) == EXPECTED[name][tensor.key][2]


def test_only_what_is_in_pieces_has_no_place() -> None:
    found = open_checkpoint(CORPUS / "hf_pieces")
    assert {t.key for t in found.tensors if t.layout == "distributed"} == {"net.weight", "emb", "half"}


def test_consolidation_that_failed(tmp_path: Path) -> None:
    """The pieces are left in ``sharded`` and nothing is beside it."""
    folder = copied("hf_consolidated", tmp_path)
    for file in folder.glob("model*"):
        file.unlink()
    found = open_checkpoint(folder)
    assert not kinds(found)
    wanted = {k: v[:2] for k, v in EXPECTED["hf_consolidated"].items()}
    assert {t.key: [t.dtype, list(t.shape)] for t in found.tensors} == wanted


def test_the_first_process_is_missing(tmp_path: Path) -> None:
    folder = copied("hf_pieces", tmp_path)
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    found = open_checkpoint(folder)
    assert kinds(found) == {ProblemKind.RECORD_MISSING}
    assert {t.key for t in found.lost} == {"net.weight", "emb", "half"}
    assert found.refused["net.weight"] == "12 of its 20 values are in no file"
    assert all("no file of shard 1" in p.message for p in found.problems[1:])
    assert [t.key for t in found.tensors] == ["net.bias"]


def test_a_process_that_wrote_nothing(tmp_path: Path) -> None:
    """A gap in the numbers proves nothing: a process without a piece of its own writes no file."""
    folder = copied("hf_pieces", tmp_path)
    second = folder / "shard-00002-model-00001-of-00001.safetensors"
    second.rename(folder / "shard-00005-model-00001-of-00001.safetensors")
    assert not kinds(open_checkpoint(folder))


def test_an_index_that_was_lost(tmp_path: Path) -> None:
    folder = copied("hf_index", tmp_path)
    (folder / "model.safetensors.index.json").unlink()
    assert not kinds(open_checkpoint(folder))
    (folder / "model-00001-of-00002.safetensors").unlink()
    found = open_checkpoint(folder)
    assert [p.record for p in found.problems_of(ProblemKind.RECORD_MISSING)] == ["model-00001-of-00002.safetensors"]


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    folder = copied("hf_pieces", tmp_path)
    first = folder / "shard-00001-model-00001-of-00001.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    found = open_checkpoint(folder)
    assert ProblemKind.RECORD_SHORT in kinds(found)
    assert "net.bias" in {t.key for t in found.tensors}
    assert found.refused


def test_objects_before_the_header() -> None:
    """torch 2.13 writes them without a word, and its reader then says that the header is invalid."""
    found = open_checkpoint(CORPUS / "hf_objects")
    assert not found.tensors
    assert any("cannot read it back" in p.message for p in found.problems_of(ProblemKind.ARCHIVE_MALFORMED))
    assert "net.weight" in found.refused


def test_native_format() -> None:
    found = open_checkpoint(CORPUS / "native")
    assert found.layout is Layout.DCP
    assert {t.key: [t.dtype, list(t.shape)] for t in found.tensors} == {
        k: v[:2] for k, v in EXPECTED["hf_pieces"].items()
    }
    assert not kinds(found)


def test_a_native_file_that_breaks_off(tmp_path: Path) -> None:
    """The lengths in the metadata would still fit: they leave the header out."""
    folder = copied("native", tmp_path)
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1])
    found = open_checkpoint(folder)
    assert ProblemKind.RECORD_SHORT in kinds(found)
    assert found.refused


def piece(places: object, **tensors: tuple[int, ...]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"DCP_SHARDING_INFO": json.dumps(places), "format": "pt"}}
    at = 0
    for key, shape in tensors.items():
        size = 4
        for n in shape:
            size *= n
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def at(*offsets: object) -> dict[str, object]:
    return {"a": {"saved_offsets": list(offsets)}}


def folder_of(tmp_path: Path, *files: bytes) -> Checkpoint:
    for n, data in enumerate(files, 1):
        (tmp_path / f"shard-{n:05}-model-00001-of-00001.safetensors").write_bytes(data)
    return open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (piece(at(0, 0), a=(2, 2)), piece(at(2, 0), a=(2, 2)), None),
        (piece(at(0, 0), a=(2, 2)), piece(at(3, 0), a=(2, 2)), "2 of its 10 values"),
        (piece(at(0, 0), a=(2, 2)), piece(at(1, 0), a=(2, 2)), "overlap"),
        (piece(at(0, 0), a=(2, 2)), piece(at(0, 0), a=(2, 2)), None),
        (piece(at(0, 0), a=(2, 2)), piece(at(2), a=(2,)), "different numbers of dimensions"),
        (piece(at(0, 0), a=(2, 2)), piece(at(2**62, 0), a=(2, 2)), "are in no file"),
        (piece(at(0), a=(0,)), piece(at(0), a=(4,)), None),
    ],
    ids=["halves", "hole", "overlap", "twice", "other rank", "far away", "empty piece"],
)
def test_pieces(tmp_path: Path, first: bytes, second: bytes, reason: str | None) -> None:
    found = folder_of(tmp_path, first, second)
    if reason is None:
        assert [t.key for t in found.tensors] == ["a"]
        assert not kinds(found)
    else:
        assert reason in found.refused["a"]
        assert any(p.fatal for p in found.problems[1:])


@pytest.mark.parametrize("places", [[], {}, "x", at(), at(-1, 0), at(0.5, 0), at("0", 0), at(True, 0), {"a": []}])
def test_places_that_make_no_sense(tmp_path: Path, places: object) -> None:
    found = folder_of(tmp_path, piece(places, a=(2, 2)))
    assert kinds(found) == {ProblemKind.ARCHIVE_MALFORMED}
    assert not found.tensors


def test_a_folder_of_several_models(tmp_path: Path) -> None:
    """Files of no known name and without places are not put together."""
    for name in ("model", "model.fp16"):
        (tmp_path / f"{name}.safetensors").write_bytes(
            piece({}, a=(2,)).replace(b"DCP_SHARDING_INFO", b"XXX_SHARDING_INFO")
        )
    assert open_checkpoint(tmp_path).layout is Layout.DIRECTORY

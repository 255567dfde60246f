"""Checkpoints that are folders."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from reader_files import checkpoint, state_dict, tensor

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.objects import mapping_get
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing.recipes import write

CORPUS = Path(__file__).parents[2] / "corpus" / "reader"


def safetensors(**tensors: int) -> bytes:
    header, at = {}, 0
    for key, count in tensors.items():
        header[key] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "model-1.safetensors").write_bytes(safetensors(a=2))
    (tmp_path / "model-2.safetensors").write_bytes(safetensors(b=3))
    index(tmp_path, a="model-1.safetensors", b="model-2.safetensors")
    return tmp_path


def index(folder: Path, **weight_map: object) -> None:
    text = json.dumps({"metadata": {"total_size": 20}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def kinds(found: Checkpoint) -> set[ProblemKind]:
    return {p.kind for p in found.problems} - {ProblemKind.UNSUPPORTED}


class TestIndexed:
    def test_tensors_of_all_shards(self, shards: Path) -> None:
        found = open_checkpoint(shards)
        assert found.layout is Layout.SHARDED
        assert [(t.key, t.shape) for t in found.tensors] == [("a", (2,)), ("b", (3,))]
        assert [p.what for p in found.problems] == ["sharded-index"]
        assert safety(found) is Safety.OK
        assert {t.storage_id for t in found.tensors} <= set(found.storages)

    def test_shards_of_torch(self, tmp_path: Path) -> None:
        write(File(raw=True, tensors={"a": (2, 2)}), tmp_path / "pytorch_model-1.bin")
        write(File(raw=True, tensors={"b": (3,)}), tmp_path / "pytorch_model-2.bin")
        text = json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}})
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
        found = open_checkpoint(tmp_path)
        assert [t.key for t in found.tensors] == ["a", "b"]
        assert len(found.pickles) == 2
        assert safety(found) is Safety.OK

    def test_a_missing_shard(self, shards: Path) -> None:
        (shards / "model-2.safetensors").unlink()
        found = open_checkpoint(shards)
        assert [t.key for t in found.tensors] == ["a"]
        assert found.refused == {"b": "model-2.safetensors is missing"}
        assert kinds(found) == {ProblemKind.RECORD_MISSING}

    def test_a_cut_shard(self, shards: Path) -> None:
        (shards / "model-2.safetensors").write_bytes(safetensors(b=3)[:-1])
        found = open_checkpoint(shards)
        assert [t.key for t in found.tensors] == ["a"]
        assert [t.key for t in found.lost] == ["b"]

    def test_a_tensor_that_is_elsewhere(self, shards: Path) -> None:
        index(shards, a="model-2.safetensors", b="model-1.safetensors")
        found = open_checkpoint(shards)
        assert not found.tensors
        assert set(found.refused) == {"a", "b"}

    @pytest.mark.parametrize(
        "shard",
        ["../model-1.safetensors", "/etc/passwd", "https://example.invalid/x.safetensors", "a\\b", "", ".hidden", 3, None,
         "model.safetensors.index.json", "x\0y"],
    )  # fmt: skip
    def test_names_that_are_no_files_of_the_folder(self, shards: Path, shard: object) -> None:
        index(shards, a="model-1.safetensors", b=shard)
        found = open_checkpoint(shards)
        assert ProblemKind.ARCHIVE_MALFORMED in kinds(found)
        assert [t.key for t in found.tensors] == ["a"]
        assert safety(found) is Safety.MALFORMED

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '"x"', "3", "[" * 100_000, '{"weight_map": 3}', '{"a": 1, "a": 2}', "\xff"]
    )
    def test_an_index_that_is_none(self, shards: Path, text: str) -> None:
        (shards / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
        assert ProblemKind.ARCHIVE_MALFORMED in kinds(open_checkpoint(shards))

    def test_links_that_leave_the_folder(self, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        outside = tmp_path_factory.mktemp("outside") / "b.safetensors"
        shutil.move(shards / "model-2.safetensors", outside)
        os.symlink(outside, shards / "model-2.safetensors")
        found = open_checkpoint(shards)
        assert [t.key for t in found.tensors] == ["a"]
        assert any("leaves the folder" in p.message for p in found.problems)

    def test_the_cache_of_the_hub_is_all_links(self, shards: Path, tmp_path: Path) -> None:
        hub = tmp_path / "hub"
        snapshot = hub / "snapshots" / "1"
        snapshot.mkdir(parents=True)
        (hub / "blobs").mkdir()
        for i, path in enumerate(sorted(shards.glob("model*"))):
            shutil.move(path, hub / "blobs" / str(i))
            os.symlink(f"../../blobs/{i}", snapshot / path.name)
        assert [t.key for t in open_checkpoint(snapshot).tensors] == ["a", "b"]


class TestDistributed:
    def test_whole_shapes(self) -> None:
        found = open_checkpoint(CORPUS / "tiny.dcp")
        assert found.layout is Layout.DCP
        assert [(t.key, t.dtype, t.shape) for t in found.tensors] == [
            ("weight", "float32", (2, 3)),
            ("half", "float16", (4,)),
        ]
        assert str(found.state_dict_path) == "state_dict"
        assert mapping_get(found.root, "epoch") == 3
        assert safety(found) is Safety.OK

    def test_missing_and_foreign_files(self, tmp_path: Path) -> None:
        shutil.copy(CORPUS / "tiny.dcp" / ".metadata", tmp_path)
        shutil.copy(CORPUS / "tiny.dcp" / "__0_0.distcp", tmp_path / "__7_0.distcp")
        found = open_checkpoint(tmp_path)
        assert not found.tensors
        assert {t.key for t in found.lost} == {"weight", "half"}
        assert kinds(found) == {ProblemKind.RECORD_MISSING, ProblemKind.BYTES_AFTER}

    def test_a_cut_file(self, tmp_path: Path) -> None:
        shutil.copy(CORPUS / "tiny.dcp" / ".metadata", tmp_path)
        data = (CORPUS / "tiny.dcp" / "__0_0.distcp").read_bytes()
        (tmp_path / "__0_0.distcp").write_bytes(data[:-10])
        assert ProblemKind.RECORD_SHORT in kinds(open_checkpoint(tmp_path))

    def test_without_metadata(self, tmp_path: Path) -> None:
        shutil.copy(CORPUS / "tiny.dcp" / "__0_0.distcp", tmp_path)
        assert kinds(open_checkpoint(tmp_path)) == {ProblemKind.RECORD_MISSING}

    def test_code_in_the_metadata(self, tmp_path: Path) -> None:
        shutil.copytree(CORPUS / "tiny.dcp", tmp_path / "x")
        (tmp_path / "x" / ".metadata").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
        assert safety(open_checkpoint(tmp_path / "x")) is Safety.DANGEROUS


class TestDeepSpeed:
    def folder(self, tmp_path: Path, ranks: tuple[int, ...] = (0, 1)) -> Path:
        inner = tmp_path / "checkpoint"
        inner.mkdir()
        (tmp_path / "latest").write_text("checkpoint")
        write(File(under="module"), inner / "mp_rank_00_model_states.pt")
        for rank in ranks:
            write(File(), inner / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        return tmp_path

    def test_model_and_ranks(self, tmp_path: Path) -> None:
        found = open_checkpoint(self.folder(tmp_path))
        assert found.layout is Layout.DEEPSPEED
        assert found.problems[0].what == "deepspeed"
        assert found.problems[0].details["world_size"] == 2
        assert len(found.tensors) == 2
        assert len(found.problems) == 1

    def test_a_rank_that_is_missing(self, tmp_path: Path) -> None:
        found = open_checkpoint(self.folder(tmp_path, ranks=(0, 2)))
        assert any("rank 1" in p.message for p in found.problems_of(ProblemKind.RECORD_MISSING))

    @pytest.mark.parametrize("tag", ["../elsewhere", "/tmp", "gone"])
    def test_latest_leads_nowhere(self, tmp_path: Path, tag: str) -> None:
        self.folder(tmp_path)
        (tmp_path / "latest").write_text(tag)
        assert kinds(open_checkpoint(tmp_path)) & {ProblemKind.ARCHIVE_MALFORMED, ProblemKind.RECORD_MISSING}


def test_what_lies_beside_the_weights_counts(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(a=2))
    (tmp_path / "README.md").write_text("words")
    assert safety(open_checkpoint(tmp_path)) is Safety.UNKNOWN
    (tmp_path / "training_args.bin").write_bytes(checkpoint(state_dict(w=tensor(), x=b"cos\nsystem\n)R")))
    found = open_checkpoint(tmp_path)
    assert found.layout is Layout.DIRECTORY
    assert safety(found) is Safety.DANGEROUS

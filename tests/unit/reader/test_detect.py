from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.reader import open_checkpoint
from relight.reader.detect import read
from relight.reader.source import MemorySource
from relight.rulekit import File
from relight.testing.recipes import contents

BROKEN = Path(__file__).parents[2] / "corpus" / "reader" / "broken"


def of_bytes(data: bytes) -> Checkpoint:
    return read(MemorySource(data))


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("model.ckpt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


OTHERS = {
    "html": b"<!DOCTYPE html>\n<html><body>404</body></html>",
    "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "json": b'{"error": "Repository not found"}',
    "gzip": gzip.compress(b"x" * 50),
    "bzip2": bz2.compress(b"x" * 50),
    "xz": lzma.compress(b"x" * 50),
    "zstd": b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00",
    "7z": b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24),
    "rar": b"Rar!\x1a\x07\x01\x00" + bytes(24),
    "tar": tarred(b"weights"),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "gguf": b"GGUF\x03\x00\x00\x00" + bytes(40),
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n" + bytes(4),
    "npz": zipped(weight_dot_npy=b"\x93NUMPY"),
    "zip": zipped(readme_dot_txt=b"hello"),
    "git-annex-pointer": b"/annex/objects/SHA256E-s516--4d7a2146.ckpt\n",
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_things_are_named(what: str) -> None:
    checkpoint = of_bytes(OTHERS[what])
    named = {p.what for p in checkpoint.problems if p.kind in (ProblemKind.NOT_A_CHECKPOINT, ProblemKind.UNSUPPORTED)}
    assert what in named
    assert any(p.fatal for p in checkpoint.problems)
    assert not checkpoint.readable


@pytest.mark.parametrize("text", [b"just some words\n", b"# notes\nkey: value\n", b"name: x\nlr: 0.1\n"])
def test_text_is_text(text: bytes) -> None:
    (problem,) = of_bytes(text).problems
    assert problem.kind is ProblemKind.NOT_A_CHECKPOINT
    assert problem.what in ("text", "yaml")


def test_a_git_lfs_pointer_says_what_belongs_there() -> None:
    (problem,) = open_checkpoint(BROKEN / "git_lfs_pointer.ckpt").problems
    assert problem.what == "git-lfs-pointer"
    assert isinstance(problem.details["size"], int)
    assert len(str(problem.details["sha256"])) == 64


@pytest.mark.parametrize(
    "file, what",
    [
        ("gguf_like.ckpt", "gguf"),
        ("gzip_wrapped.ckpt", "gzip"),
        ("hdf5_like.ckpt", "hdf5"),
        ("html_page.ckpt", "html"),
        ("json_error.ckpt", "json"),
        ("torch_export.pt2.ckpt", "torch-export"),
        ("torchscript.ckpt", "torchscript"),
        ("xml_s3_error.ckpt", "xml"),
    ],
)
def test_real_files_of_other_kinds(file: str, what: str) -> None:
    assert what in {p.what for p in open_checkpoint(BROKEN / file).problems}


def test_torchscript_has_a_layout_of_its_own() -> None:
    assert open_checkpoint(BROKEN / "torchscript.ckpt").layout is Layout.TORCHSCRIPT


def test_a_checkpoint_inside_another_archive() -> None:
    whats = {p.what or "" for p in open_checkpoint(BROKEN / "zipped_once_more.ckpt").problems}
    assert any(what.startswith("nested-zip") for what in whats)


def test_nothing_and_zeros() -> None:
    assert [p.kind for p in of_bytes(b"").problems] == [ProblemKind.EMPTY]
    assert [p.kind for p in of_bytes(bytes(6000)).problems] == [ProblemKind.ALL_ZERO]


def test_the_name_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(contents(File()))
    assert open_checkpoint(path).layout is Layout.TORCH_ZIP
    assert open_checkpoint(BROKEN / "safetensors_as.ckpt").layout is Layout.SAFETENSORS


def test_a_plain_pickle_is_decoded_and_named() -> None:
    checkpoint = of_bytes(b"\x80\x02}X\x01\x00\x00\x00aK\x01s.")
    assert checkpoint.layout is Layout.PICKLE
    assert checkpoint.root is not None
    assert "plain-pickle" in {p.what for p in checkpoint.problems}


@pytest.mark.parametrize(
    "names, what",
    [
        ([".metadata", "__0_0.distcp"], "dcp"),
        (["latest", "zero_to_fp32.py"], "deepspeed"),
        (["model.safetensors.index.json"], "sharded-index"),
        (["notes.txt"], "directory"),
        ([], "directory"),
    ],
)
def test_folders_are_named_and_do_not_raise(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}" if name.endswith(".json") else "x")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.problems
    assert any(p.what == what for p in checkpoint.problems) or checkpoint.layout.value in (what, "sharded")


def header(tensors: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


class TestSafetensors:
    def test_tensors_and_where_they_are(self) -> None:
        start = struct.pack("<2f", 1.0, 2.0)
        data = header({"w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}, start)
        checkpoint = of_bytes(data)
        (tensor,) = checkpoint.tensors
        assert (tensor.key, tensor.dtype, tensor.shape, tensor.stride) == ("w", "float32", (2, 1), (1, 1))
        span = checkpoint.storages[tensor.storage_id or ""].span
        assert span is not None
        assert data[span.start : span.end] == start
        assert not checkpoint.problems

    @pytest.mark.parametrize(
        "tensors, data",
        [
            ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),  # too few bytes for the shape
            ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),  # a hole
            ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(9)),  # more than the tensors
            ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0"),  # less
            ({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
            ({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4)),
            ({"w": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, bytes(4)),
            ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, b""),
            ({"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
            ({"w": 3}, b""),
        ],
    )
    def test_what_makes_no_sense_is_a_problem(self, tensors: dict[str, object], data: bytes) -> None:
        assert any(p.fatal for p in of_bytes(header(tensors, data)).problems)

    @pytest.mark.parametrize("text", [b"{]", b'{"a":NaN}', b"{" * 500, b'{"\xff":1}', b'{"w":1,"w":2}', b"{}}"])
    def test_a_header_that_is_no_json(self, text: bytes) -> None:
        assert of_bytes(struct.pack("<Q", len(text)) + text).problems

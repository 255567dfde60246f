from __future__ import annotations

import json
import math
import struct
import zipfile
from pathlib import Path

import pytest

from relight.core.checkpoint import ProblemKind
from relight.core.errors import UsageError
from relight.reader.verify import damages, verify
from relight.rulekit import File, Tensor
from relight.testing import write


def a_file(folder: Path) -> Path:
    return write(
        File(tensors={"a": (4, 4), "b": Tensor((8,), "float16"), "n": Tensor((3,), "int64")}), folder / "m.ckpt"
    )


def poke(path: Path, record: str, data: bytes) -> None:
    from relight.reader import open_checkpoint

    span = next(r.span for r in open_checkpoint(path).records if r.name == record)
    raw = bytearray(path.read_bytes())
    raw[span.start : span.start + len(data)] = data
    path.write_bytes(raw)


def test_a_whole_file(tmp_path: Path) -> None:
    result = verify(a_file(tmp_path), finite=True, digest=True)
    assert result.ok
    assert result.checksums == result.records == 6
    assert result.non_finite == ()
    assert result.digests is not None
    assert "m.ckpt" in result.digests


def test_a_flipped_byte_that_torch_does_not_notice(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    poke(path, "data/0", b"\x01")
    result = verify(path)
    assert not result.ok
    assert [(p.kind, p.record) for p in result.problems] == [(ProblemKind.CRC_MISMATCH, "data/0")]


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    poke(path, "data/1", struct.pack("<3e", 0.0, math.nan, math.inf))
    (bad,) = verify(path, finite=True).non_finite or ()
    assert (bad.key, bad.nan, bad.inf, bad.numel, bad.first) == ("b", 1, 1, 8, 1)


def test_not_looked_for_is_not_the_same_as_not_there(tmp_path: Path) -> None:
    result = verify(a_file(tmp_path))
    assert result.non_finite is None
    assert result.digests is None


def test_legacy_files_have_no_checksums(tmp_path: Path) -> None:
    result = verify(write(File(legacy=True), tmp_path / "old.ckpt"))
    assert result.ok
    assert result.checksums == 0
    assert result.records == 2


def test_every_byte_is_read_once(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    seen: list[int] = []
    result = verify(path, progress=seen.append)
    assert sum(seen) == result.read <= path.stat().st_size


def test_a_cut_file_is_not_whole(tmp_path: Path) -> None:
    assert not verify(write(File(keep=0.8), tmp_path / "cut.ckpt")).ok


def test_compressed_records_are_inflated_piece_by_piece(tmp_path: Path) -> None:
    import zipfile

    from relight.reader import open_checkpoint

    plain = a_file(tmp_path)
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for record in open_checkpoint(plain).records:
            target.writestr(f"archive/{record.name}", plain.read_bytes()[record.span.start : record.span.end])
    result = verify(packed, finite=True)
    assert result.ok
    assert result.checksums == 6


def test_values_in_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "big.ckpt"
    little = zipfile.ZipFile(write(File(tensors={"a": (4,)}), tmp_path / "little.ckpt"))
    with little, zipfile.ZipFile(path, "w") as big:
        for name in little.namelist():
            big.writestr(name, b"big" if name.endswith("/byteorder") else little.read(name))
    poke(path, "data/0", struct.pack(">2f", math.nan, 1.0))
    (bad,) = verify(path, finite=True).non_finite or ()
    assert (bad.nan, bad.inf, bad.first) == (1, 0, 0)
    poke(path, "data/0", struct.pack("<f", math.nan))  # a plain number if read in the right order
    assert verify(path, finite=True).non_finite == ()


def test_a_folder_is_verified_file_by_file(tmp_path: Path) -> None:
    write(File(raw=True, tensors={"a": (4,)}), tmp_path / "one.pt")
    write(File(raw=True, tensors={"b": (4,)}), tmp_path / "two.pt")
    index = {"weight_map": {"a": "one.pt", "b": "two.pt"}}
    (tmp_path / "model.index.json").write_text(json.dumps(index))
    result = verify(tmp_path, finite=True)
    assert result.ok
    assert result.records == result.checksums > 2
    poke(tmp_path / "two.pt", "data/0", struct.pack("<f", math.inf))
    result = verify(tmp_path, finite=True)
    assert [(p.kind, p.record) for p in result.problems if damages(p)] == [(ProblemKind.CRC_MISMATCH, "two.pt")]
    assert [t.key for t in result.non_finite or ()] == ["b"]


def test_a_remote_file_is_not_fetched_to_verify_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Download the file first"):
        verify("https://example.invalid/model.ckpt")

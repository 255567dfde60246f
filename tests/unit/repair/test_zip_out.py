"""The archive that is written is the one that torch writes."""

from __future__ import annotations

import pytest
from repairing import repaired

from relight.core.edits import RenameKeys
from relight.reader import open_checkpoint

torch = pytest.importorskip("torch")


def test_a_file_of_torch_comes_out_byte_for_byte(tmp_path):
    """All but the id, which names a content: whoever writes a file gives it one of its own."""
    path, output = tmp_path / "model.ckpt", tmp_path / "copy.ckpt"
    tensors = {"a": torch.randn(3, 5), "none": torch.empty(0), "b": torch.arange(100_000)}
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    repaired(path, output)
    old, new = path.read_bytes(), output.read_bytes()
    assert len(old) == len(new)
    at = old.index(b".data/serialization_id")
    assert old[:at] == new[:at]
    different = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert len(different) <= 48, "the 40 digits of the id, and its checksum, which stands in two places"


def test_torch_finds_storages_by_their_sizes_alone(tmp_path, monkeypatch):
    """It computes offsets where the file says that it may; the debug switch compares them with the directory."""
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    path, output = tmp_path / "model.ckpt", tmp_path / "copy.ckpt"
    torch.save({"state_dict": {f"old.{i}": torch.full((i,), float(i)) for i in range(9)}}, path)
    repaired(path, output, RenameKeys((("old.3", "a name that is longer than it was"),)))
    loaded = torch.load(output, weights_only=True)["state_dict"]
    assert torch.equal(loaded["a name that is longer than it was"], torch.full((3,), 3.0))
    mapped = torch.load(output, weights_only=True, mmap=True)["state_dict"]
    assert torch.equal(mapped["old.8"], torch.full((8,), 8.0))
    meta = torch.load(output, weights_only=True, map_location="meta")["state_dict"]
    assert meta["old.8"].is_meta


def test_large_storages_stay_in_step_with_blocks(tmp_path, monkeypatch):
    """XFS and btrfs share blocks of two files, whole ones at multiples of their size: then a copy takes no time."""
    import os

    path, output = tmp_path / "model.ckpt", tmp_path / "copy.ckpt"
    torch.save({"state_dict": {f"old.{i}": torch.randn(900, 1000 + i) for i in range(3)}, "epoch": 1}, path)
    asked = []
    real = getattr(os, "copy_file_range", None)
    if real is not None:
        monkeypatch.setattr(os, "copy_file_range", lambda *a: asked.append(a[2:]) or real(*a))
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    repaired(path, output, RenameKeys(tuple((f"old.{i}", f"a name of another length.{i}") for i in range(3))))
    old, new = open_checkpoint(path), open_checkpoint(output)
    for key, storage in old.storages.items():
        assert (new.storages[key].span.start - storage.span.start) % 4096 == 0
        assert new.storages[key].span.start % 64 == 0
    for length, start, at in asked:
        assert length < 4096 or (start % 4096, at % 4096) == (0, 0)
    state = torch.load(path, weights_only=True)["state_dict"]
    loaded = torch.load(output, weights_only=True, mmap=True)["state_dict"]
    assert all(torch.equal(loaded[f"a name of another length.{i}"], state[f"old.{i}"]) for i in range(3))
    assert torch.load(output, weights_only=True, map_location="meta")["state_dict"][
        "a name of another length.2"
    ].is_meta

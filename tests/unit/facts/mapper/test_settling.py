"""What shapes cannot tell is settled by values where both sides have them, and by nothing else."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

from relight import api

Matrix = list[list[float]]


def safetensors(path: Path, tensors: dict[str, Matrix]) -> Path:
    """A file with float32 matrices."""
    head, body = {}, b""
    for key, rows in tensors.items():
        data = struct.pack(f"<{len(rows) * len(rows[0])}f", *(v for row in rows for v in row))
        shape, span = [len(rows), len(rows[0])], [len(body), len(body) + len(data)]
        head[key] = {"dtype": "F32", "shape": shape, "data_offsets": span}
        body += data
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def matrix(seed: int, n: int = 4) -> Matrix:
    numbers = random.Random(seed)
    return [[numbers.uniform(-1, 1) for _ in range(n)] for _ in range(n)]


def turned(rows: Matrix) -> Matrix:
    return [list(column) for column in zip(*rows, strict=True)]


def renamed(seeds: dict[str, int]) -> dict[str, Matrix]:
    return {f"{name}.weight": matrix(seed) for name, seed in seeds.items()}


def test_equal_values_say_which_is_which(tmp_path):
    source = safetensors(tmp_path / "a.safetensors", renamed({"xa": 1, "xb": 2, "xc": 3}))
    target = safetensors(tmp_path / "b.safetensors", renamed({"up": 3, "down": 1, "side": 2}))
    found = api.map_keys(source, target)
    assert {t: p.source for t, p in found.pairs.items()} == {
        "up.weight": ("xc.weight",),
        "down.weight": ("xa.weight",),
        "side.weight": ("xb.weight",),
    }
    assert {p.confidence for p in found.pairs.values()} == {"certain"}
    assert {p.reason for p in found.pairs.values()} == {"the values are the same in both files"}
    assert not found.questions


def test_other_values_settle_nothing(tmp_path):
    source = safetensors(tmp_path / "a.safetensors", renamed({"xa": 1, "xb": 2}))
    target = safetensors(tmp_path / "b.safetensors", renamed({"up": 7, "down": 8}))
    assert "certain" not in {p.confidence for p in api.map_keys(source, target).pairs.values()}


def test_fresh_weights_that_are_all_alike_settle_nothing(tmp_path):
    zero = [[0.0] * 4 for _ in range(4)]
    source = safetensors(tmp_path / "a.safetensors", {"xa.weight": zero, "xb.weight": matrix(1)})
    target = safetensors(tmp_path / "b.safetensors", {"up.weight": zero, "down.weight": zero})
    found = api.map_keys(source, target)
    assert "certain" not in {p.confidence for p in found.pairs.values()}


def test_copies_in_the_checkpoint_need_no_second_file(tmp_path):
    source = safetensors(tmp_path / "a.safetensors", renamed({"xa": 1, "xb": 1}))
    target = [("up.weight", (4, 4), "float32"), ("down.weight", (4, 4), "float32")]
    found = api.map_keys(source, target)
    assert {p.confidence for p in found.pairs.values()} == {"certain"}
    assert {p.reason for p in found.pairs.values()} == {"the values are the same in all 2 that it could be"}
    different = safetensors(tmp_path / "c.safetensors", renamed({"xa": 1, "xb": 2}))
    assert {p.confidence for p in api.map_keys(different, target).pairs.values()} == {"ambiguous"}


def test_a_square_that_was_turned_shows_in_sums_of_its_rows(tmp_path):
    body = {"body.weight": [[0.5] * 4 for _ in range(9)]}
    source = safetensors(tmp_path / "a.safetensors", {**body, "projection": matrix(1)})
    for rows, op in ((matrix(1), "copy"), (turned(matrix(1)), "transpose")):
        target = safetensors(tmp_path / "b.safetensors", {**body, "projection.weight": rows})
        pair = api.map_keys(source, target).pairs["projection.weight"]
        assert (pair.op, pair.confidence) == (op, "certain")
        assert "rows" in pair.reason


def test_a_square_of_other_values_stays_likely(tmp_path):
    source = safetensors(tmp_path / "a.safetensors", {"projection": matrix(1)})
    target = safetensors(tmp_path / "b.safetensors", {"projection.weight": matrix(2)})
    assert api.map_keys(source, target).pairs["projection.weight"].confidence == "likely"


def test_only_what_is_open_is_read(tmp_path, monkeypatch):
    from relight.reader import values

    read = []
    monkeypatch.setattr(values, "chunks", lambda source, tensor, storage: read.append(tensor.key) or iter(()))
    same = {"stem.weight": matrix(5, 3), "head.weight": matrix(6, 5)}
    source = safetensors(tmp_path / "a.safetensors", {**same, **renamed({"xa": 1, "xb": 2})})
    target = safetensors(tmp_path / "b.safetensors", {**same, **renamed({"up": 1, "down": 2})})
    api.map_keys(source, target)
    assert set(read) <= {"xa.weight", "xb.weight", "up.weight", "down.weight"}

from __future__ import annotations

from pathlib import Path

from relight.facts.diff import compare
from relight.reader import open_checkpoint
from relight.rulekit import File, Tensor
from relight.testing import write


def difference(folder: Path, a: File, b: File, *, with_values: bool = False):  # type: ignore[no-untyped-def]
    one, two = write(a, folder / "a.ckpt"), write(b, folder / "b.ckpt")
    return compare(open_checkpoint(one), open_checkpoint(two), with_values=with_values)


def test_a_file_equals_itself(tmp_path: Path) -> None:
    d = difference(tmp_path, File(), File(), with_values=True)
    assert d.equal
    assert d.same == d.values_equal == 2


def test_keys_shapes_dtypes_and_hyper_parameters(tmp_path: Path) -> None:
    d = difference(
        tmp_path,
        File(tensors={"a": (2, 3), "b": (2,), "c": (1,)}, hparams={"width": 2, "lr": 0.1}),
        File(
            tensors={"a": (2, 4), "b": Tensor((2,), "float16"), "d": (1,)},
            hparams={"width": 3, "lr": 0.1},
            version="2.0.0",
        ),
    )
    assert not d.equal
    assert [t.key for t in d.removed] == ["c"]
    assert [t.key for t in d.added] == ["d"]
    assert [(c.name, c.left, c.right) for c in d.tensors] == [
        ("a", "[2, 3] float32", "[2, 4] float32"),
        ("b", "[2] float32", "[2] float16"),
    ]
    assert [(c.name, c.left, c.right) for c in d.hyper_parameters] == [("width", "2", "3")]
    assert [(c.name, c.left, c.right) for c in d.about] == [("lightning", "2.6.6", "2.0.0")]


def test_values(tmp_path: Path) -> None:
    import struct

    a, b = write(File(), tmp_path / "a.ckpt"), write(File(), tmp_path / "b.ckpt")
    span = open_checkpoint(b).storages["1"].span
    assert span is not None
    raw = bytearray(b.read_bytes())
    raw[span.start : span.end] = struct.pack("<2f", 0.5, 0.0)
    b.write_bytes(raw)
    d = compare(open_checkpoint(a), open_checkpoint(b), with_values=True)
    (change,) = d.values or ()
    assert (change.key, change.differing, change.numel, change.largest) == ("net.bias", 1, 2, 0.5)
    assert d.values_equal == 1
    assert not d.equal

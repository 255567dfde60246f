"""Forms of inputs as people write them, and files that have no place for a manifest."""

from __future__ import annotations

import pytest

from relight.core.errors import RepairError, UsageError
from relight.reader import open_checkpoint
from relight.repair import sealing
from relight.rulekit import File, make, manifest
from relight.testing import write


@pytest.mark.parametrize(
    "text, form",
    [
        ("8x3", {"tensor": "float32", "shape": [8, 3]}),
        ("4", {"tensor": "float32", "shape": [4]}),
        ("2x5:float16", {"tensor": "float16", "shape": [2, 5]}),
        ("4x16:int64:0..99", {"tensor": "int64", "shape": [4, 16], "low": 0, "high": 99}),
        ("4x16:-5..99", {"tensor": "int64", "shape": [4, 16], "low": -5, "high": 99}),
        ("4:uint8:255..0", {"tensor": "uint8", "shape": [4], "low": 0, "high": 255}),
        ("4x4:bool", {"tensor": "bool", "shape": [4, 4]}),
    ],
)
def test_forms(text, form):
    assert sealing.input_form((text, "2")) == {"args": [form, {"tensor": "float32", "shape": [2]}], "kwargs": {}}


@pytest.mark.parametrize(
    "text", ["", "x", "4xx4", "-4", "4x4:int64", "4x4:float32:0..1", "4:text", "4x4 ", "4:int64:0..1:2"]
)
def test_what_is_no_form(text):
    with pytest.raises(UsageError, match="no form of an input"):
        sealing.input_form((text,))


def test_none_is_none():
    assert sealing.input_form(()) is None


def test_a_manifest_of_the_training_is_not_replaced(tmp_path):
    path = write(File(extra=manifest(make({}))), tmp_path / "a.ckpt")
    with pytest.raises(RepairError, match="has a manifest already, written by the program that saved it"):
        sealing.refuse(open_checkpoint(path))
    sealing.refuse(open_checkpoint(write(File(extra=manifest(make({}), sealed=True)), tmp_path / "b.ckpt")))

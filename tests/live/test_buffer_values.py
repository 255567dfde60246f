"""Buffers that a file lacks, with the values that the constructor always gives them."""

from __future__ import annotations

import pytest

import relight
from relight.live import capture
from relight.live.capture import TargetRequest
from relight.reader import open_checkpoint

torch = pytest.importorskip("torch")

MODEL = """
import torch
import lightning


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.register_buffer("steps", torch.arange(3))
        {more}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"head.weight": torch.randn(2, 2), "head.bias": torch.randn(2)}
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state}, tmp_path / "model.ckpt")
    return tmp_path


def test_added_by_name(folder):
    (folder / "nets.py").write_text(MODEL.format(more=""))
    receipt = relight.fix("model.ckpt", "copy.ckpt", target="nets.py", allow=["add-buffers"])
    assert (receipt.loaded, receipt.verdict) == ("yes", "loads")
    assert not receipt.proved, "what they were in training, nobody knows"
    assert [what for what, _ in receipt.written.invented] == ["scale", "steps"]
    state = torch.load("copy.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["scale"], torch.tensor([0.5, 2.0]))
    assert torch.equal(state["steps"], torch.arange(3))
    assert torch.equal(state["head.weight"], torch.load("model.ckpt")["state_dict"]["head.weight"])


def test_what_is_drawn_has_no_value(folder):
    (folder / "nets.py").write_text(MODEL.format(more='self.register_buffer("noise", torch.randn(3))'))
    request = TargetRequest(argument="nets.py", checkpoint=open_checkpoint("model.ckpt"))
    (built,) = capture.build_targets([request], cache=False)
    values = {p.key: p.value for p in built.spec.params}
    assert values["noise"] is None
    assert values["head.weight"] is None
    assert values["scale"] is not None

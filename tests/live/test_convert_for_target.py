"""A plain state_dict of a network becomes a checkpoint of the LightningModule around it, and loads there."""

from __future__ import annotations

import sys

import pytest

import relight

torch = pytest.importorskip("torch")

MODEL = """
import torch
import lightning


class Net(lightning.LightningModule):
    def __init__(self, width, out=2):
        super().__init__()
        self.save_hyperparameters()
        self.model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, out))
"""


def test_a_network_and_the_module_around_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nets_of_conversions.py").write_text(MODEL)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    torch.save(network.state_dict(), "w.pt")
    done = relight.convert("w.pt", "model.ckpt", target="nets_of_conversions.py:Net", init={"width": 5})
    assert ("the target", True, "really loaded into the target") in done.checks
    try:
        from nets_of_conversions import Net

        loaded = Net.load_from_checkpoint("model.ckpt")
    finally:
        sys.modules.pop("nets_of_conversions", None)
    assert loaded.hparams == {"width": 5, "out": 2}
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    relight.convert("model.ckpt", "back.pt", only="weights")
    again = torch.load("back.pt", weights_only=True)
    assert {k.removeprefix("model."): v.tolist() for k, v in again.items()} == {
        k: v.tolist() for k, v in network.state_dict().items()
    }
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["model.ckpt"]

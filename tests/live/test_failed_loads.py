"""What an exception tells of the load that it comes from, in the frames that it passed through."""

from __future__ import annotations

import argparse
import warnings

import pytest

from relight import api

torch = pytest.importorskip("torch")

NETS = """
import torch
import lightning


class Net(lightning.LightningModule):
    def __init__(self, width, deep=False):
        super().__init__()
        if deep:
            raise ValueError("deep is not done yet")
        self.save_hyperparameters()
        self.head = torch.nn.Linear(width, 2)

    def training_step(self, batch, batch_idx):
        return self.head(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(2, 8))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nets_that_fail.py").write_text(NETS)
    import nets_that_fail

    save("old.ckpt", {"layer2.weight": torch.randn(2, 8), "layer2.bias": torch.randn(2)}, {"width": 8})
    yield nets_that_fail
    import sys

    sys.modules.pop("nets_that_fail", None)


def save(path, state, hparams):
    content = {"pytorch-lightning_version": "2.6.6", "epoch": 1, "global_step": 2, "state_dict": state}
    torch.save({**content, "loops": {}, "hyper_parameters": hparams}, path)


def explained(load, exception):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(exception) as caught:
            load()
    return api.explain_failure(caught.value)


def test_load_from_checkpoint(nets, tmp_path):
    report = explained(lambda: nets.Net.load_from_checkpoint(tmp_path / "old.ckpt", map_location="cpu"), RuntimeError)
    assert [f.name for f in report.findings] == ["renamed-module"]
    assert report.intent == "load"
    assert report.origin == str(tmp_path / "old.ckpt")


def test_what_was_raised_from_it(nets):
    def load():
        try:
            nets.Net.load_from_checkpoint("old.ckpt")
        except RuntimeError as error:
            raise SystemError("wrapped") from error

    assert [f.name for f in explained(load, SystemError).findings] == ["renamed-module"]


def test_before_there_is_a_model(nets):
    """Then the class is built in another process, with the arguments of the call."""
    report = explained(lambda: nets.Net.load_from_checkpoint("old.ckpt", deep=True), ValueError)
    assert report.findings[0].name == "constructor-fails"
    assert report.target["argument"] == "nets_that_fail:Net"


def test_torch_load(nets):
    save("args.ckpt", {}, argparse.Namespace(width=8))
    report = explained(lambda: torch.load("args.ckpt"), Exception)
    assert [f.name for f in report.findings] == ["not-plain-data"]
    assert report.intent == "weights"


def test_load_state_dict(nets):
    """The file is one that the program names, and that has these very keys."""
    save("other.ckpt", {"head.weight": torch.zeros(2, 8)}, {})

    def load():
        path = "old.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        nets.Net(8).load_state_dict(state)

    report = explained(load, RuntimeError)
    assert (report.origin, report.intent) == ("old.ckpt", "weights")
    assert [f.name for f in report.findings] == ["renamed-module"]
    assert explained(lambda: nets.Net(8).load_state_dict({"of no file": torch.ones(1)}), RuntimeError) is None


def test_resuming(nets):
    import lightning

    def load():
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(nets.Net(8), ckpt_path="old.ckpt")

    report = explained(load, RuntimeError)
    assert (report.origin, report.intent) == ("old.ckpt", "resume")
    assert "renamed-module" in [f.name for f in report.findings]


def test_what_is_no_load(nets):
    assert explained(lambda: 1 / 0, ZeroDivisionError) is None
    assert explained(lambda: nets.Net(8)(torch.ones(3)), NotImplementedError) is None

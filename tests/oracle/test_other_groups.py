"""An optimizer whose groups changed goes on in the real Trainer as it would have, or the state is left out."""

from __future__ import annotations

import sys

import pytest

import relight
from relight.core.errors import RelightError

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = """
import lightning.pytorch as pl
import torch
from torch.optim.lr_scheduler import StepLR


class Base(pl.LightningModule):
    decay = None  # of weights; None for one group

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1)

    def training_step(self, batch, index):
        return {"loss": self.b(self.norm(torch.tanh(self.a(batch[0])))).pow(2).mean()}

    def train_dataloader(self):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=2)

    def groups(self):
        if self.decay is None:
            return self.parameters()
        others = [p for n, p in self.named_parameters() if p.dim() == 1]
        return [{"params": others, "weight_decay": 0.0}, {"params": [self.a.weight, self.b.weight], "weight_decay": self.decay}]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.groups(), lr=0.01, weight_decay=0.1)
        return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]


class One(Base):
    pass


class Two(Base):
    decay = 0.1
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "grouped.py").write_text(MODEL)
    yield __import__("grouped")
    del sys.modules["grouped"]


def fit(model, steps, path=None, then=None):
    losses = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer, module):
            if then is not None:
                then(trainer.optimizers[0])

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            losses.append(float(outputs["loss"]))

    trainer = pl.Trainer(
        max_epochs=-1, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Watch()],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, ckpt_path=path)
    return trainer, losses


def test_one_group_becomes_two(nets):
    """As if weight_decay had been taken from the biases and norms of the old optimizer by hand."""
    trainer, _ = fit(nets.One(), 8)
    trainer.save_checkpoint("model.ckpt")
    report = relight.check("model.ckpt", target="grouped.py:Two", intent="resume")
    (found,) = report.findings
    assert found.predicts.exception == "ValueError"
    with pytest.raises(ValueError, match="different number of parameter groups"):
        fit(nets.Two(), 18, "model.ckpt")
    (fix,) = [x for x in found.fixes if x.allow == "regroup-optimizer"]
    assert fix.note == "Options are those of the file; weight_decay, in which the groups differ, those of the code."
    with pytest.raises(RelightError, match="nothing is done to it unasked"):
        relight.fix("model.ckpt", "copy.ckpt", target="grouped.py:Two", intent="resume")
    receipt = relight.fix(
        "model.ckpt", "copy.ckpt", target="grouped.py:Two", intent="resume", allow=["regroup-optimizer"]
    )
    assert (receipt.left, receipt.verdict, receipt.loaded) == ((), "loads", "yes")

    def by_hand(optimizer):
        (whole,) = optimizer.param_groups
        flat = [p for p in whole["params"] if p.dim() == 1]
        whole["params"] = [p for p in whole["params"] if p.dim() > 1]
        optimizer.param_groups.append({**whole, "params": flat, "weight_decay": 0.0})

    _, wanted = fit(nets.One(), 11, "model.ckpt", by_hand)
    _, losses = fit(nets.Two(), 11, "copy.ckpt")
    assert losses == pytest.approx(wanted, rel=1e-6)
    two, _ = fit(nets.Two(), 18, "copy.ckpt")
    one, _ = fit(nets.One(), 18, "model.ckpt")
    assert [g["lr"] for g in two.optimizers[0].param_groups] == [one.optimizers[0].param_groups[0]["lr"]] * 2
    assert {g["initial_lr"] for g in two.optimizers[0].param_groups} == {0.01}


def test_two_groups_of_the_same_options_become_one(nets, monkeypatch):
    monkeypatch.setattr(nets.Two, "groups", lambda self: [
        {"params": [self.b.weight, self.b.bias]}, {"params": [*self.a.parameters(), *self.norm.parameters()]},
    ])  # fmt: skip
    trainer, _ = fit(nets.Two(), 8)
    trainer.save_checkpoint("model.ckpt", weights_only=False)
    root = torch.load("model.ckpt", weights_only=True)
    names = [["b.weight", "b.bias"], ["a.weight", "a.bias", "norm.weight", "norm.bias"]]
    # Without names nobody can tell which parameters were in which.
    refused = relight.check("model.ckpt", target="grouped.py:One", intent="resume").findings[0]
    assert "which parameters were in which is not in the file" in refused.context[0]
    assert [x.allow for x in refused.fixes] == ["drop-optimizer-states"]
    for group, listed in zip(root["optimizer_states"][0]["param_groups"], names, strict=True):
        group["param_names"] = listed
    torch.save(root, "named.ckpt")
    relight.fix("named.ckpt", "copy.ckpt", target="grouped.py:One", intent="resume", allow=["regroup-optimizer"])
    _, losses = fit(nets.One(), 18, "copy.ckpt")
    _, wanted = fit(nets.Two(), 18, "model.ckpt")
    assert losses == pytest.approx(wanted, rel=1e-6)


def test_groups_of_other_options_do_not_become_one(nets):
    trainer, _ = fit(nets.Two(), 8)
    trainer.save_checkpoint("model.ckpt")
    root = torch.load("model.ckpt", weights_only=True)
    names = [["a.bias", "norm.weight", "norm.bias", "b.bias"], ["a.weight", "b.weight"]]
    for group, listed in zip(root["optimizer_states"][0]["param_groups"], names, strict=True):
        group["param_names"] = listed
    torch.save(root, "named.ckpt")
    found = relight.check("named.ckpt", target="grouped.py:One", intent="resume").findings[0]
    assert "parameters of groups with another weight_decay are in one group now" in found.context[0]
    receipt = relight.fix(
        "named.ckpt", "c.ckpt", target="grouped.py:One", intent="resume", allow=["drop-optimizer-states"]
    )
    assert (receipt.verdict, receipt.loaded) == ("loads", "yes")
    trainer, _ = fit(nets.One(), 10, "c.ckpt")
    assert (trainer.global_step, trainer.optimizers[0].state_dict()["state"][0]["step"]) == (10, 2)

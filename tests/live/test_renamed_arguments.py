"""Hyper_parameters that the class takes under other names now: one finding, one call that loads, asked of Lightning."""

from __future__ import annotations

import sys

import pytest

import relight

SAVED = """
import lightning as L
from torch import nn
class Net(L.LightningModule):
    def __init__(self, hidden=8, classes=3, dropout=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.fc = nn.Linear(4, hidden)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)
"""
DEFAULTS = SAVED.replace("hidden", "width").replace("dropout=", "p_drop=").replace("(dropout)", "(p_drop)")
REQUIRED = SAVED.replace("hidden=8", "width").replace("hidden", "width").replace("classes", "num_classes")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "saved"}
    monkeypatch.setitem(sys.modules, "saved", type(sys)("saved"))
    exec(SAVED, space)
    model = space["Net"](hidden=16, classes=5, dropout=0.4)
    state = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save({**state, "pytorch-lightning_version": "2.6.6"}, "model.ckpt")
    return model


@pytest.mark.parametrize(
    "source, rule, passed",
    [
        (DEFAULTS, "RL505", "p_drop=0.4, width=16"),
        (REQUIRED, "RL504", "width=16, num_classes=5"),
    ],
)
def test_one_call_passes_all_of_them(checkpoint, tmp_path, source, rule, passed):
    import torch

    (tmp_path / "models.py").write_text(source)
    report = relight.check("model.ckpt", target="models.py:Net")
    (finding,) = [f for f in report.findings if f.severity.value != "note"]
    assert finding.code == rule
    call = finding.fixes[0].code
    assert call == f'Net.load_from_checkpoint("model.ckpt", {passed})'
    space: dict[str, object] = {"__name__": "models"}
    exec(source, space)
    exec(f"loaded = {call}", space)
    loaded = space["loaded"]
    x = torch.ones(2, 4)
    assert torch.equal(loaded.eval().head(loaded.drop(loaded.fc(x))), checkpoint.eval().head(checkpoint.fc(x)))
    assert loaded.drop.p == 0.4

    relight.fix("model.ckpt", target="models.py:Net", output="named.ckpt", allow=["renamed-argument"])
    named = space["Net"].load_from_checkpoint("named.ckpt")
    assert named.drop.p == 0.4
    assert torch.equal(named.fc.weight, checkpoint.fc.weight)


def test_a_resume_is_of_a_model_whose_arguments_nobody_told(checkpoint, tmp_path):
    trained = """
    def configure_optimizers(self):
        import torch
        return torch.optim.Adam(self.parameters())
    """
    (tmp_path / "models.py").write_text(DEFAULTS + trained)
    import torch

    optimizer = torch.optim.Adam(checkpoint.parameters())
    checkpoint.head(checkpoint.fc(torch.ones(1, 4))).sum().backward()
    optimizer.step()
    state = torch.load("model.ckpt", weights_only=True)
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1, "completed": 1}}}}
    resumed = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [], "epoch": 0, "global_step": 1}
    torch.save({**state, **resumed, "loops": loops, "callbacks": {}}, "model.ckpt")
    report = relight.check("model.ckpt", target="models.py:Net", intent="resume")
    # Where the training stood is another question: no Trainer wrote this file.
    assert [f.name for f in report.findings if f.code not in ("RL602", "RL603")] == []
    assert "--init width=16" in report.unknown[0]
    report = relight.check("model.ckpt", target="models.py:Net", intent="resume", init={"width": 16})
    assert "optimizer-differs" not in [f.name for f in report.findings]
    assert not any("--init" in u for u in report.unknown)

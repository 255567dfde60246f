"""Shapes that differ, and arguments whose defaults are those sizes: the call that gives the file's, asked of Lightning."""

from __future__ import annotations

import pytest

import relight

SOURCE = """
import lightning as L
from torch import nn
class Net(L.LightningModule):
    def __init__(self, width=16, classes=3, vocab=50, depth=2, dropout=0.1):
        super().__init__()
        self.tok = nn.Embedding(vocab, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.mix = nn.Linear(width, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.head = nn.Linear(width, classes)
"""


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(SOURCE)
    space: dict[str, object] = {"__name__": "models"}
    exec(SOURCE, space)
    return space


@pytest.mark.parametrize(
    "rule, trained",
    [
        ("RL401", {"classes": 7}),
        ("RL402", {"vocab": 60}),
        ("RL403", {"width": 32}),
        ("RL403", {"width": 8}),
        ("RL303", {"depth": 1}),
        ("RL304", {"depth": 6}),
    ],
)
def test_the_call_that_is_printed_loads(space, rule, trained):
    import torch

    model = space["Net"](**trained)
    torch.save({"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.6"}, "model.ckpt")
    report = relight.check("model.ckpt", target="models.py:Net")
    (finding,) = [f for f in report.findings if f.severity.value != "note"]
    assert finding.code == rule
    call = finding.fixes[0].code
    named = ", ".join(f"{k}={v}" for k, v in trained.items())
    assert call == f'Net.load_from_checkpoint("model.ckpt", {named})'
    exec(f"loaded = {call}", space)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), space["loaded"].parameters(), strict=True))


@pytest.mark.parametrize("trained", [{"width": 32, "classes": 7}, {"width": 24, "vocab": 60}])
def test_several_at_once(space, trained):
    import torch

    model = space["Net"](**trained)
    torch.save({"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.6"}, "model.ckpt")
    report = relight.check("model.ckpt", target="models.py:Net")
    calls = {f.code for found in report.findings for f in found.fixes if "Net.load" in (f.code or "")}
    named = ", ".join(f"{k}={v}" for k, v in trained.items())
    assert f'Net.load_from_checkpoint("model.ckpt", {named})' in calls

"""The story of docs/refactoring.md: trained, refactored, both changes named, loaded, proved and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from user_folder import Folder

pytestmark = pytest.mark.torch

DOCS = Path(__file__).parents[2] / "docs" / "refactoring.md"

MODELS = """\
import lightning.pytorch as pl
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.lin = nn.LayerNorm(width), nn.Linear(width, width)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.lin(self.norm(x)))


class Net(pl.LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.save_hyperparameters()
        self.inp = nn.Linear(2, width)
        self.body = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.body(self.inp(x)))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
"""
REFACTORED = MODELS.replace("self.body", "self.encoder").replace("nn.ReLU()", "nn.GELU()")

TRAIN = """\
import lightning.pytorch as pl
import torch
from models import Net
from relight import CheckpointManifest

x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)

def trained(model, epochs, resumed=None):
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=[CheckpointManifest()])
    trainer.fit(model, data, data, ckpt_path=resumed)
    return trainer

def answers(model):
    with torch.no_grad():
        return model.eval()(x)
"""
# What was trained, what it answers, and what becomes of it in two more epochs of the old code.
BEFORE = """
from train import *
torch.manual_seed(0)
model = Net()
trained(model, 3).save_checkpoint("model.ckpt")
torch.save(answers(model), "answers.pt")
longer = Net()
trained(longer, 5, "model.ckpt")
torch.save(longer.state_dict(), "longer.pt")
"""
AFTER = """
import warnings
from train import *
import relight
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = relight.load(Net, "model.ckpt", prove=True)
print([str(w.message) for w in said if "repaired" in str(w.message)])
print(relight.report_of(model).proved, torch.equal(answers(model), torch.load("answers.pt")))
longer = Net()
trainer = trained(longer, 5, "model.fixed.ckpt")
old = torch.load("longer.pt")
print(trainer.current_epoch, all(torch.equal(v, old[k.replace("encoder", "body")]) for k, v in longer.state_dict().items()))
"""
WRONG = """
from train import *
import relight
try:
    relight.load(Net, "model.fixed.ckpt", prove=True)
except relight.LoadError as error:
    print(error)
"""


def test_trained_refactored_loaded_proved_and_resumed(tmp_path, tmp_path_factory):
    folder = Folder(tmp_path, tmp_path_factory.mktemp("cache"))
    folder.write("models.py", MODELS)
    folder.write("train.py", TRAIN)
    before = folder.python(BEFORE)
    assert before.status == 0, before.err

    folder.write("models.py", REFACTORED)
    answer = folder.shell("relight check model.ckpt --target models.py:Net")
    assert answer.status == 1
    assert "error: body in the checkpoint is encoder in the model           [renamed-module]" in answer.out
    assert "warning: 2 activations are not those it was trained with    [activation-changed]" in answer.out
    assert "encoder.{0,1}.act  saved with ReLU(), now" in answer.out
    for line in answer.out.splitlines():
        assert line in DOCS.read_text(), "the page shows what is said today"

    # The file is mended; what the code does otherwise is not hidden by that.
    fixed = folder.shell(answer.code("Rename the keys in a copy"))
    assert "left: activation-changed" in " ".join(fixed.out.split())
    wrong = folder.python(WRONG)
    assert "loads into Net WITHOUT AN ERROR, BUT WRONG" in wrong.out
    assert "outputs differ by up to" in wrong.out

    folder.write("models.py", REFACTORED.replace("self.act = nn.GELU()", answer.code("To keep what was trained")))
    assert folder.shell("relight check model.fixed.ckpt --target models.py:Net").status == 0
    after = folder.python(AFTER)
    assert after.status == 0, after.err
    said, proved, resumed = after.out.splitlines()[-3:]
    assert "body -> encoder" in said
    assert proved == "True True"
    assert resumed == "5 True"

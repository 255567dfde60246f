"""A user's folder: scripts as people write them, and checkpoints that the real Lightning trained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CUSTOM_MODULE = """from torch import nn
class MyCustomLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(10, 10)
        self.norm = nn.LayerNorm(10)
    def forward(self, x):
        return self.norm(self.proj(x))
"""

TRAIN = """
import sys
import torch
import pytorch_lightning as pl
from torch import nn


class MyModel(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(10, 20)
        self.layer2 = nn.Linear(20, 1)

    def forward(self, x):
        return self.layer2(torch.relu(self.layer1(x)))

    def training_step(self, batch, batch_idx):
        return self(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class MyCustomLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(10, 10)
        self.norm = nn.LayerNorm(10)

    def forward(self, x):
        return self.norm(self.proj(x))


class WithCustom(MyModel):
    def __init__(self):
        super().__init__()
        self.custom_layer = MyCustomLayer()

    def forward(self, x):
        return super().forward(self.custom_layer(x))


class WithInjected(MyModel):
    def __init__(self, layer):
        super().__init__()
        self.save_hyperparameters()
        self.layer = layer

    def forward(self, x):
        return super().forward(self.layer(x))


def train(model, path, tag=None):
    data = torch.utils.data.TensorDataset(torch.randn(16, 10))
    trainer = pl.Trainer(max_epochs=10, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, accelerator="cpu")
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4))
    if tag is not None:
        steps = {s["step"].data_ptr() for s in trainer.optimizers[0].state.values()}
        torch.serialization.location_tag = lambda s: "cpu" if s.data_ptr() in steps else tag
    trainer.save_checkpoint(path)


train(MyModel(), "model.ckpt")
train(WithCustom(), "custom.ckpt")
import my_custom_module
train(WithInjected(my_custom_module.MyCustomLayer()), "modelb.ckpt")
train(MyModel(), "gpu3.ckpt", "cuda:3")
"""

LAYERS = """import torch
import pytorch_lightning as pl
from torch import nn
class MyModel(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(10, 20)
        self.layer2 = nn.Linear(20, 1){extra}
    def forward(self, x):
        return self.layer2(torch.relu(self.layer1(x)))
"""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def first(self) -> str:
        return self.out.splitlines()[0]

    def code(self, start: str) -> str:
        """The indented block of code or command that follows a line with this beginning."""
        lines = self.out.splitlines()
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(start))
        while not lines[at].startswith("    "):
            at += 1
        block = []
        while at < len(lines) and lines[at].startswith("    "):
            block.append(lines[at][4:])
            at += 1
        return "\n".join(block)


class Folder:
    """A working directory in which commands are run."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.path = path
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RELIGHT", "PYTHON"))},
            "RELIGHT_CACHE_DIR": str(cache),
            "COLUMNS": "80",
            "PYTHONWARNINGS": "ignore",
        }

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def relight(self, *arguments: str, **environment: str) -> Answer:
        return self._run([sys.executable, "-m", "relight", *arguments], environment)

    def shell(self, command: str, **environment: str) -> Answer:
        """A printed command, as pasted: `relight` is the one under test."""
        if "PATH" not in environment:
            command = re.sub(r"(^|\s)relight ", rf"\g<1>{sys.executable} -m relight ", command, count=1)
        return self._run(["sh", "-c", command], environment)

    def python(self, code: str, **environment: str) -> Answer:
        return self._run([sys.executable, "-c", code], environment)

    def _run(self, command: list[str], environment: dict[str, str]) -> Answer:
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

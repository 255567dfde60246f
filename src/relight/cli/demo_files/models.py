"""The models of the demo: one that was trained, and what became of it."""

import pytorch_lightning as pl
import torch
from torch import nn


class Trained(pl.LightningModule):
    """The model as it was trained."""

    def __init__(self, width=8, classes=3):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Renamed(pl.LightningModule):
    """The head is called classifier now."""

    def __init__(self, width=8, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        self.classifier = nn.Linear(width, classes)


class Grown(Trained):
    """Another layer behind the body."""

    def __init__(self, width=8, classes=3):
        super().__init__(width, classes)
        self.attention = nn.Linear(width, width)


class Classic(pl.LightningModule):
    """The model of a file that Lightning 0.7 wrote in 2020."""

    def __init__(self, in_dim=8, hidden=16, out_dim=1, lr=1e-3):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out_dim)
        )


class Projection(nn.Module):
    """A layer of the project."""

    def __init__(self, width=8):
        super().__init__()
        self.proj = nn.Linear(4, width)

    def forward(self, x):
        return self.proj(x)


class Injected(pl.LightningModule):
    """Takes a whole layer as an argument, and saves it with the hyper_parameters."""

    def __init__(self, layer=None, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.layer = Projection(width) if layer is None else layer
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        return self.out(self.layer(x))

    def training_step(self, batch, batch_idx):
        return self(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

"""The model of the files in this folder: each was trained and saved by another Lightning, with a manifest."""

import torch
from torch import nn

try:
    import lightning.pytorch as pl
except ImportError:
    import pytorch_lightning as pl


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.lin, self.act = nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()
        self.scale = 0.5

    def forward(self, x):
        return x + self.scale * self.act(self.lin(self.norm(x)))


class Net(pl.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.inp, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.drop = nn.Dropout(0.1)
        self.register_buffer("table", torch.linspace(-1, 1, width), persistent=False)

    def forward(self, x):
        x = self.inp(x) + self.table
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5)]

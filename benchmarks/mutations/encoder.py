import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            16, nhead=4, dim_feedforward=32, dropout=0.1, activation="relu", batch_first=True, norm_first=False
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.inp = nn.Linear(8, 16)
        self.pos = nn.Parameter(torch.randn(10, 16) * 0.1)
        self.head = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 2), nn.Softmax(dim=-1))

    def forward(self, x):
        h = self.inp(x) + self.pos
        h = self.encoder(h)
        return self.head(h.mean(dim=1))


def example():
    return torch.randn(4, 10, 8)

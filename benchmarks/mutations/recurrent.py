import torch
from torch import nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Net(nn.Module):
    def __init__(self, activation="tanh"):
        super().__init__()
        self.embed = nn.Embedding(30, 12, padding_idx=0)
        self.rnn = nn.LSTM(12, 16, num_layers=2, batch_first=True, dropout=0.1)
        self.act = ACTIVATIONS[activation]()
        self.bidirectional_sum = False
        self.clip = 3.0
        self.classifier = nn.Linear(16, 4)

    def forward(self, tokens):
        x = self.embed(tokens)
        out, (h, c) = self.rnn(x)
        last = h[-1]
        last = last.clamp(-self.clip, self.clip)
        if self.bidirectional_sum:
            last = last + out.mean(1)
        return self.classifier(self.act(last))


def example():
    return torch.randint(1, 30, (6, 9))

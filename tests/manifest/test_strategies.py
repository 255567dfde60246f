"""What strategies of several processes do to a call of the model."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.parametrize("inside", [True, False])
def test_a_step_in_the_place_of_forward_is_no_input(inside):
    import torch
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies.strategy import _ForwardRedirection

    from relight.manifest.probing import Watch

    class Net(LightningModule):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x)

        def validation_step(self, batch, batch_idx):
            return self(batch) if inside else self.fc(batch)

    class Wrapper(torch.nn.Module):  # as DistributedDataParallel does
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args):
            return self.module(*args)

    net = Net()
    watch = Watch(sys.modules["torch"])
    watch.start(net)
    _ForwardRedirection()(Wrapper(net), net, "validation_step", torch.ones(4, 3), 0)
    watch.stop()
    assert watch.reason is None
    assert watch.path == ("" if inside else "fc")
    assert len(watch.form["args"]) == 1, watch.form

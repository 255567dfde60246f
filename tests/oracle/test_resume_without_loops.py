"""What RL602 says of a file without ``loops`` is what the real Trainer does: epoch 0 again, with the optimizer's state."""

from __future__ import annotations

import pytest

import relight

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.began = None

    def training_step(self, batch, index):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

    def on_train_start(self):
        steps = [int(s["step"]) for s in self.trainer.optimizers[0].state.values()]
        self.began = (self.current_epoch, self.global_step, max(steps, default=0))


def train(epochs, folder, **arguments):
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )
    module = Module()
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2), **arguments)
    return trainer, module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("loops", "began"), [(True, (3, 6, 6)), (False, (0, 0, 6))])
def test_a_resume(tmp_path, loops, began):
    path = tmp_path / "model.ckpt"
    train(3, tmp_path)[0].save_checkpoint(path)
    if not loops:
        content = torch.load(path, weights_only=True)
        del content["loops"]
        torch.save(content, path)
    found = [f.name for f in relight.check(path, intent="resume").findings]
    assert ("epoch-restarts" in found) is not loops
    assert train(4, tmp_path, ckpt_path=str(path))[1].began == began

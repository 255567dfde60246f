"""What the real Trainer makes of learning rate schedulers that are not those of the file, and what was said of it."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest

import relight

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = """
import lightning.pytorch as pl
import torch
from torch.optim import lr_scheduler as s


class Net(pl.LightningModule):
    made = {made}

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        return self.net(batch[0]).pow(2).mean()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)), batch_size=2)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [make(optimizer) for make in self.made]
"""
STEP = "[lambda o: s.StepLR(o, 1, gamma=0.5)]"


@contextmanager
def module(folder, name, made):
    (folder / f"{name}.py").write_text(MODEL.format(made=made))
    sys.path.insert(0, str(folder))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(folder))
        del sys.modules[name]


def fit(model, folder, epochs, path=None):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder),
    )  # fmt: skip
    trainer.fit(model, ckpt_path=path)
    return trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three epochs of StepLR: the learning rate is 0.1 / 8."""
    folder = tmp_path_factory.mktemp("saved")
    with module(folder, "of_then", STEP) as net:
        trainer = fit(net.Net(), folder, 3)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.parametrize(
    ("made", "cause", "raised"),
    [
        ("[lambda o: s.ExponentialLR(o, gamma=0.99)]", "silent-scheduler-mix", None),
        ("[lambda o: s.LambdaLR(o, lambda e: 1.0)]", "sched-class-changed", KeyError),
        ("[lambda o: s.SequentialLR(o, [s.ConstantLR(o), s.StepLR(o, 1)], [2])]", "sched-class-changed", KeyError),
        ("[lambda o: s.StepLR(o, 1, gamma=0.5)] * 2", "silent-optimizer-count", None),
    ],
)
def test_what_is_said_is_what_happens(saved, tmp_path, monkeypatch, made, cause, raised):
    monkeypatch.chdir(tmp_path)
    with module(tmp_path, "of_today", made) as net:
        report = relight.check(saved, target="of_today.py:Net", intent="resume")
        (found,) = [f for f in report.findings if f.name == "scheduler-differs"]
        assert found.cause == cause
        assert report.verdict.value == ("loads-wrong" if raised is None else "fails")
        if raised is not None:
            with pytest.raises(raised) as error:
                fit(net.Net(), tmp_path, 4, saved)
            assert str(error.value) == found.predicts.message
        else:
            fit(net.Net(), tmp_path, 4, saved)
        if cause != "silent-scheduler-mix":
            return
        # The gamma of the file is what it goes on with; in the copy, that of the code.
        assert fit(net.Net(), tmp_path, 4, saved).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8 * 0.5)
        relight.fix(saved, "c.ckpt", target="of_today.py:Net", intent="resume", allow=["keep-scheduler-place"])
        again = fit(net.Net(), tmp_path, 4, "c.ckpt")
        assert again.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8 * 0.99)
        assert again.lr_scheduler_configs[0].scheduler.last_epoch == 4


def test_notes_say_whose_settings_win(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with module(tmp_path, "other_gamma", "[lambda o: s.StepLR(o, 1, gamma=0.9)]") as net:
        report = relight.check(saved, target="other_gamma.py:Net", intent="resume")
        assert (report.verdict.value, report.findings) == ("loads", ())
        assert any(
            "gamma of StepLR is that of the file, 0.5, not that of configure_optimizers, 0.9" in n for n in report.notes
        )
        relight.fix(saved, "c.ckpt", target="other_gamma.py:Net", intent="resume", options={"scheduler.gamma": 0.9})
        assert fit(net.Net(), tmp_path, 4, "c.ckpt").optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8 * 0.9)
        assert fit(net.Net(), tmp_path, 4, saved).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8 * 0.5)


def test_no_scheduler_any_more(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with module(tmp_path, "without", "[]") as net:
        report = relight.check(saved, target="without.py:Net", intent="resume")
        assert (report.verdict.value, report.findings) == ("loads", ())
        assert any(n.startswith("StepLR of the file is left out") for n in report.notes)
        assert fit(net.Net(), tmp_path, 4, saved).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8)


@pytest.mark.parametrize("then", [STEP, "[]"], ids=["StepLR before", "none before"])
def test_a_schedule_that_looks_things_up_in_the_optimizer(then, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with module(tmp_path, "then", then) as net:
        fit(net.Net(), tmp_path, 3).save_checkpoint("model.ckpt")
    with module(tmp_path, "of_cycle", "[lambda o: s.OneCycleLR(o, 0.2, total_steps=9)]") as net:
        report = relight.check("model.ckpt", target="of_cycle.py:Net", intent="resume")
        assert report.prediction.exception == "KeyError"
        with pytest.raises(KeyError) as error:
            fit(net.Net(), tmp_path, 4, "model.ckpt")
        assert str(error.value) == report.prediction.message
        receipt = relight.fix(
            "model.ckpt", "c.ckpt", target="of_cycle.py:Net", intent="resume", allow=["begin-schedule"]
        )
        assert (receipt.left, receipt.verdict) == ((), "loads")
        trainer = fit(net.Net(), tmp_path, 4, "c.ckpt")
        fresh = fit(net.Net(), tmp_path, 1)  # as many steps of the schedule
        assert trainer.optimizers[0].param_groups[0]["lr"] == fresh.optimizers[0].param_groups[0]["lr"]


def test_the_learning_rate_of_the_file_wins_and_the_copy_has_that_of_the_code(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with module(tmp_path, "other_rate", STEP) as net:
        source = (tmp_path / "other_rate.py").read_text().replace("lr=0.1)", "lr=0.4)")
        (tmp_path / "other_rate.py").write_text(source)
        exec(source, net.__dict__)
        report = relight.check(saved, target="other_rate.py:Net", intent="resume")
        assert [f.name for f in report.findings] == ["option-overwritten"]
        assert fit(net.Net(), tmp_path, 4, saved).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 16)
        relight.fix(saved, "c.ckpt", target="other_rate.py:Net", intent="resume", allow=["options-of-code"])
        assert fit(net.Net(), tmp_path, 4, "c.ckpt").optimizers[0].param_groups[0]["lr"] == pytest.approx(0.4 / 2)


def test_a_schedule_that_is_not_kept_begins_with_its_first_learning_rate(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with module(tmp_path, "anew", STEP) as net:
        relight.fix(saved, "c.ckpt", target="anew.py:Net", intent="resume", keep=["weights", "optimizer", "loops"])
        assert fit(net.Net(), tmp_path, 4, "c.ckpt").optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 2)

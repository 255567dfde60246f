"""Two targets that are not classes of a model: an instance, and a LightningDataModule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import relight
from relight.core.finding import Verdict
from relight.rulekit import File
from relight.testing import write

pytestmark = pytest.mark.torch

SOURCE = """
import pytorch_lightning as pl
from torch import nn


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)


class Data(pl.LightningDataModule):
    def __init__(self, batch_size=4):
        super().__init__()


class Rooted(pl.LightningDataModule):
    def __init__(self, root):
        super().__init__()


instance = Net()
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELIGHT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "models.py").write_text(SOURCE, encoding="utf-8")
    return write(File(extra={"epoch": 1, "global_step": 4}), tmp_path / "model.ckpt")


def test_an_instance(file: Path) -> None:
    report = relight.check(file.name, target="models.py:instance", intent="weights")
    assert report.findings == ()
    assert report.verdict is Verdict.LOADS


def test_a_datamodule_is_not_compared_with_weights(file: Path) -> None:
    report = relight.check(file.name, target="models.py:Data")
    assert report.findings == ()
    assert report.verdict is Verdict.UNKNOWN
    assert any("LightningDataModule" in u for u in report.unknown)


def test_an_argument_that_a_datamodule_needs(file: Path) -> None:
    report = relight.check(file.name, target="models.py:Rooted")
    assert [(f.name, f.cause) for f in report.findings] == [("argument-missing", "datamodule-vs-module")]
    done = subprocess.run(
        [sys.executable, "-c", f"import models; models.Rooted.load_from_checkpoint({file.name!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.prediction is not None
    assert f"{report.prediction.exception}: {report.prediction.message}" in done.stderr


def test_an_argument_that_a_datamodule_finds(file: Path) -> None:
    write(File(extra={"datamodule_hyper_parameters": {"root": "x"}}), file)
    assert relight.check(file.name, target="models.py:Rooted").findings == ()


def test_lightning_module_itself(file: Path) -> None:
    """Whether it takes the hyper_parameters or not, one finding says why it cannot work."""
    report = relight.check(file.name, target="pytorch_lightning:LightningModule")
    assert [f.name for f in report.findings][:1] == ["base-class-target"]
    assert report.verdict is Verdict.FAILS
    write(File(hparams={"width": 3}), file)
    report = relight.check(file.name, target="pytorch_lightning:LightningModule")
    assert [f.name for f in report.findings] == ["base-class-target"]
    assert report.verdict is Verdict.FAILS

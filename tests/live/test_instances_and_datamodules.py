"""Two targets that are not classes of a model: an instance, and a LightningDataModule."""

from __future__ import annotations

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

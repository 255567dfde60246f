"""A script that calls load_from_checkpoint on an object: seen, and the real Lightning refuses it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import relight
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


{call}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELIGHT_CACHE_DIR", str(tmp_path / "cache"))
    write(File(), tmp_path / "model.ckpt")
    return tmp_path


def test_on_an_object(folder):
    (folder / "load.py").write_text(SOURCE.format(call='model = Net()\nmodel.load_from_checkpoint("model.ckpt")'))
    report = relight.check("model.ckpt", target="load.py:Net")
    assert [f.name for f in report.findings] == ["load-on-instance"]
    done = subprocess.run([sys.executable, "load.py"], capture_output=True, text=True, check=False)
    assert report.prediction is not None
    assert f"{report.prediction.exception}: {report.prediction.message}" in done.stderr


def test_on_the_class(folder):
    (folder / "load.py").write_text(SOURCE.format(call='model = Net.load_from_checkpoint("model.ckpt")'))
    assert relight.check("model.ckpt", target="load.py:Net").findings == ()


def test_a_constructor_that_wants_the_network(folder):
    body = SOURCE.format(call="").replace(
        "        self.net",
        "        import urllib.request\n        urllib.request.urlopen('http://localhost:9')\n        self.net",
    )
    (folder / "load.py").write_text(body)
    report = relight.check("model.ckpt", target="load.py:Net")
    assert [(f.cause, f.severity.value) for f in report.findings] == [("init-needs-network-or-files", "warning")]
    assert report.verdict is relight.Verdict.UNKNOWN
    assert report.unanswered


def test_a_configuration_that_takes_no_new_keys(folder):
    omegaconf = pytest.importorskip("omegaconf")
    import torch

    cfg = omegaconf.OmegaConf.create({"width": 3})
    omegaconf.OmegaConf.set_struct(cfg, True)
    state = {"net.weight": torch.zeros(2, 3), "net.bias": torch.zeros(2)}
    torch.save(
        {
            "pytorch-lightning_version": "2.6.6",
            "state_dict": state,
            "hyper_parameters": cfg,
            "hparams_name": "cfg",
        },
        folder / "model.ckpt",
    )
    source = SOURCE.format(call="").replace("__init__(self)", "__init__(self, cfg)")
    (folder / "load.py").write_text(source)
    assert relight.check("model.ckpt", target="load.py:Net", weights_only=False).findings == ()
    report = relight.check("model.ckpt", target="load.py:Net", weights_only=False, init={"extra": 3})
    assert [f.cause for f in report.findings] == ["omegaconf-update-kwargs"]
    call = 'import load; load.Net.load_from_checkpoint("model.ckpt", weights_only=False, extra=3)'
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert report.prediction is not None
    assert report.prediction.message.splitlines()[0] in done.stderr

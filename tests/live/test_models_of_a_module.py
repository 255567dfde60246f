"""All models that a file or a package defines, built by one child."""

from __future__ import annotations

import json

import pytest

from relight import api
from relight.core.errors import UsageError
from relight.core.target import FailureKind
from relight.live import capture
from relight.live.capture import TargetRequest, build_models
from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing import write

pytestmark = pytest.mark.torch

MODELS = """
import os
import pytorch_lightning as pl
from torch import nn
from layers import Helper

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)

class Net(pl.LightningModule):
    def __init__(self, width=3):
        super().__init__()
        self.net = nn.Linear(width, 2)

class Needs(pl.LightningModule):
    def __init__(self, folder):
        super().__init__()

class Data(pl.LightningDataModule):
    pass

Alias = Net
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELIGHT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "layers.py").write_text("from torch import nn\nclass Helper(nn.Module): pass\n")
    (tmp_path / "models.py").write_text(MODELS)
    write(File(tensors={"net.weight": (2, 3), "net.bias": (2,)}), tmp_path / "x.ckpt")
    return tmp_path


@pytest.fixture
def children(monkeypatch):
    """How many child processes were started."""
    runs = []
    real = capture._run_child

    def counted(*args):
        runs.append(args)
        return real(*args)

    monkeypatch.setattr(capture, "_run_child", counted)
    return runs


def test_one_child_for_all(folder, children):
    request = TargetRequest(argument="models.py:*", checkpoint=open_checkpoint("x.ckpt"))
    found = build_models(request)
    assert [t.argument for t in found] == ["models.py:Block", "models.py:Net", "models.py:Needs"]
    assert [t.class_kind for t in found] == ["module", "lightning", "lightning"]
    assert [t.spec is not None for t in found] == [True, True, False]
    assert found[1].rehearsal.ok
    assert len(children) == 1
    again = build_models(request)
    assert [t.spec and t.spec.modules for t in again] == [t.spec and t.spec.modules for t in found]
    assert len(children) == 2, "what could not be built is tried again, and nothing else"


def test_ranked(folder, children):
    ranking = api.rank_targets("x.ckpt", "models.py:*")
    assert [c.name for c in ranking.candidates] == ["Net", "Block", "Needs"]
    out = ranking.text(width=80)
    assert out.splitlines()[0] == "x.ckpt: loads into Net (models.py), the best of 2 classes; 1 could not be built"
    assert "    the constructor needs folder, which the checkpoint does not give it\n" in out
    assert len(children) == 1
    assert json.loads(json.dumps(ranking.to_dict()))["candidates"][2]["built"] is False


def test_a_package_and_its_own_modules(folder):
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text(
        "from torch.nn import Linear\nfrom .net import Net\nfrom .net import Net as N\n"
    )
    (folder / "pkg" / "net.py").write_text(MODELS.replace("from layers import Helper", ""))
    found = build_models(TargetRequest(argument="pkg:*"), cache=False)
    assert [t.argument for t in found] == ["pkg:Net"]


def test_what_was_defined_before_a_script_loads(folder):
    (folder / "load.py").write_text(
        "from models import Net\nclass Mine(Net): pass\nMine.load_from_checkpoint('x.ckpt')\nclass Late(Net): pass\n"
    )
    found = build_models(TargetRequest(argument="load.py:*"), cache=False)
    assert [t.argument for t in found] == ["load.py:Mine"]


def test_a_class_that_ends_the_process(folder):
    (folder / "dies.py").write_text(
        MODELS + "class Dies(Net):\n    def __init__(self):\n        os._exit(3)\nclass Last(Net): pass\n"
    )
    found = build_models(TargetRequest(argument="dies.py:*"), cache=False)
    assert [(t.argument.rpartition(":")[2], t.spec is not None) for t in found] == [
        ("Block", True),
        ("Net", True),
        ("Needs", False),
        ("Dies", False),
        ("Last", True),
    ]
    assert found[3].failure.kind is FailureKind.UNKNOWN


def test_nothing_to_build(folder):
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "broken.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(UsageError, match=r"--target empty\.py:\*: it defines no nn\.Module"):
        api.rank_targets("x.ckpt", "empty.py:*")
    ranking = api.rank_targets("x.ckpt", ["broken.py:*"])
    assert ranking.best is None
    assert ranking.report.failed
    assert "[module-not-found]" in str(ranking)


def test_an_argument_that_no_class_takes(folder):
    with pytest.raises(UsageError, match="widht"):
        api.rank_targets("x.ckpt", "models.py:*", init={"widht": 3})
    assert api.rank_targets("x.ckpt", "models.py:*", init={"width": 3}).best.name == "Net"

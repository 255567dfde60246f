"""Copies that are really loaded, by the class of the user, and models that are loaded by way of a copy."""

from __future__ import annotations

import argparse

import pytest

import relight

torch = pytest.importorskip("torch")

MODEL = """
import torch
import lightning


class Net(lightning.LightningModule):
    def __init__(self, args):
        super().__init__()
        self.save_hyperparameters()
        self.head = torch.nn.Linear(args.width, vars(args)["out"])
"""
# The constructor takes what the file holds, and something is done with it that plain data cannot do.
PICKY = MODEL.replace("super().__init__()", "super().__init__()\n        assert type(args).__name__ != 'OrderedDict'")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nets_of_repairs.py").write_text(MODEL)
    state = {"layer2.weight": torch.randn(2, 8), "layer2.bias": torch.randn(2)}
    torch.save(
        {
            "pytorch-lightning_version": "2.6.6",
            "state_dict": state,
            "hparams_name": "kwargs",
            "hyper_parameters": {"args": argparse.Namespace(width=8, out=2)},
        },
        tmp_path / "model.ckpt",
    )
    yield tmp_path
    import sys

    sys.modules.pop("nets_of_repairs", None)


def test_really_loaded(folder):
    receipt = relight.fix("model.ckpt", "copy.ckpt", target="nets_of_repairs.py")
    assert (receipt.loaded, receipt.loaded_by) == ("yes", "load_from_checkpoint")
    assert receipt.proved
    assert receipt.verdict == "loads"
    assert set(receipt.gone) == {"not-plain-data", "renamed-module"}


def test_a_copy_that_does_not_load_is_no_copy(folder):
    """Found by the dry run or by the real one: there is no file that does not do what was promised."""
    (folder / "nets_of_repairs.py").write_text(PICKY)
    with pytest.raises(relight.RepairError):
        relight.fix("model.ckpt", "copy.ckpt", target="nets_of_repairs.py")
    assert not (folder / "copy.ckpt").exists()


def test_load(folder):
    import nets_of_repairs

    with pytest.warns(UserWarning, match=r"model.ckpt was repaired in a copy .*layer2 -> head"):
        model = relight.load(nets_of_repairs.Net, "model.ckpt")
    saved = torch.load("model.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(model.head.weight, saved["layer2.weight"])
    assert sorted(p.name for p in folder.glob("*.ckpt")) == ["model.ckpt"]


def test_load_where_nothing_is_wrong(folder):
    import nets_of_repairs

    relight.fix("model.ckpt", "copy.ckpt", target="nets_of_repairs.py", prove="read")
    model = relight.load(nets_of_repairs.Net, "copy.ckpt")  # warnings are errors here
    assert model.head.out_features == 2


def test_load_says_why_not(folder):
    import nets_of_repairs

    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": {"a": torch.ones(2)}}, "bad.ckpt")
    with pytest.raises(relight.LoadError, match="the constructor needs args") as caught:
        relight.load(nets_of_repairs.Net, "bad.ckpt")
    assert isinstance(caught.value.__cause__, TypeError)


def test_load_of_a_file_that_would_run_code(folder):
    import os

    import nets_of_repairs

    class Evil:
        def __reduce__(self):
            return (os.mkdir, ("it_ran",))

    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": {}, "hyper_parameters": {"x": Evil()}}, "evil.ckpt")
    with pytest.raises(relight.LoadError):
        relight.load(nets_of_repairs.Net, "evil.ckpt", weights_only=False)
    assert not (folder / "it_ran").exists()

"""Copies that are really loaded, by the class of the user, and models that are loaded by way of a copy."""

from __future__ import annotations

import argparse
import warnings

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

    with pytest.warns(UserWarning, match=r"model.ckpt was repaired in memory .*layer2 -> head"):
        model = relight.load(nets_of_repairs.Net, "model.ckpt")
    saved = torch.load("model.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(model.head.weight, saved["layer2.weight"])
    assert sorted(p.name for p in folder.glob("*.ckpt")) == ["model.ckpt"]
    told = relight.report_of(model)
    assert told.repaired
    assert str(told).splitlines()[0] == "model.ckpt: loaded into Net, repaired in memory"
    assert {f.name for f in told.report.findings} == {"not-plain-data", "renamed-module"}


def test_load_where_nothing_is_wrong(folder):
    import nets_of_repairs

    state = {"head.weight": torch.randn(2, 8), "head.bias": torch.randn(2)}
    hparams = {"width": 8, "out": 2}
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state, "hyper_parameters": hparams}, "copy.ckpt")
    args = argparse.Namespace(**hparams)
    model = relight.load(nets_of_repairs.Net, "copy.ckpt", args=args)  # warnings are errors here
    assert model.head.out_features == 2
    told = relight.report_of(model)
    assert str(told) == "copy.ckpt: loaded into Net as it is"
    assert (told.repaired, told.report.verdict, told.report.findings) == (False, "loads", ())
    with pytest.raises(relight.UsageError, match="not loaded by relight"):
        relight.report_of(torch.nn.Linear(1, 1))


def test_load_says_why_not(folder):
    import nets_of_repairs

    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": {"a": torch.ones(2)}}, "bad.ckpt")
    with pytest.raises(relight.LoadError, match="the constructor needs args") as caught:
        relight.load(nets_of_repairs.Net, "bad.ckpt")
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_class_that_no_other_process_can_find(folder):
    """Of a notebook, or of a function: what the load itself built says what is wrong, step by step."""
    import weakref

    import lightning

    alive = weakref.WeakSet()
    together = []

    class Local(lightning.LightningModule):
        def __init__(self, args):
            super().__init__()
            alive.add(self)
            together.append(len(alive))
            self.head = torch.nn.Linear(args.width, vars(args)["out"])

    with pytest.warns(UserWarning, match="layer2 -> head"):
        model = relight.load(Local, "model.ckpt")
    assert {f.name for f in relight.report_of(model).report.findings} == {"not-plain-data", "renamed-module"}
    assert together == [1, 1], "what a failed load has built is gone before the next begins"

    class Other(Local):
        def __init__(self, args):
            super().__init__(args)
            self.more = torch.nn.Linear(2, 2)

    with pytest.raises(relight.LoadError, match=r"more  nn\.Linear") as caught:
        relight.load(Other, "model.ckpt")
    assert "Weights only load failed" in str(caught.value.__cause__), "what the file itself raised"


@pytest.mark.parametrize("refused", [False, True])
def test_what_is_not_strict_is_looked_at_all_the_same(folder, refused):
    """strict=False would leave a renamed layer at random values, without an error: it is renamed; what is new is named."""
    import lightning

    class Net(lightning.LightningModule):
        def __init__(self, args=None):
            super().__init__()
            self.head = torch.nn.Linear(8, 2)
            self.more = torch.nn.Linear(2, 2)

    state = {"layer2.weight": torch.randn(2, 8), "layer2.bias": torch.randn(2)}
    content = {"pytorch-lightning_version": "2.6.6", "state_dict": state}
    if refused:
        content["hyper_parameters"] = {"args": argparse.Namespace(width=8)}
    torch.save(content, "renamed.ckpt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = relight.load(Net, "renamed.ckpt", strict=False)
    assert torch.equal(model.head.weight, state["layer2.weight"])
    assert any("layer2 -> head" in str(w.message) for w in caught)
    told = relight.report_of(model)
    assert (told.initial, told.unused) == (("more.weight", "more.bias"), ())
    assert "  At initial values: more.weight, more.bias" in str(told)

    # Where nothing is renamed, it goes through as it is, and what is new is named as well.
    torch.save(
        {**content, "state_dict": {f"head.{k[7:]}": v for k, v in state.items()}, "hyper_parameters": {}}, "new.ckpt"
    )
    with pytest.warns(UserWarning, match="not in the checkpoint"):
        told = relight.report_of(relight.load(Net, "new.ckpt", strict=False))
    assert (told.repaired, told.initial) == (False, ("more.weight", "more.bias"))


def test_a_failure_that_is_not_the_files(folder):
    """Where nothing is wrong with the file, what is said begins with what was raised, not with good news."""
    import lightning

    class Stubborn(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 1)

        def on_load_checkpoint(self, checkpoint):
            raise OSError("no licence server")

    state = {"head.weight": torch.ones(1, 1), "head.bias": torch.ones(1)}
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state}, "fine.ckpt")
    with pytest.raises(relight.LoadError) as caught:
        relight.load(Stubborn, "fine.ckpt")
    assert str(caught.value).startswith("fine.ckpt does not load: OSError: no licence server\n")


def test_classes_that_the_caller_allows(folder):
    """Their objects stay what they are, others become plain data, and what needs renaming is renamed."""
    import nets_of_repairs

    (folder / "nets_of_repairs.py").write_text(PICKY)
    net = __import__("importlib").reload(nets_of_repairs).Net
    with pytest.raises(relight.LoadError):
        relight.load(net, "model.ckpt")
    for types in ({argparse.Namespace}, [argparse.Namespace], {"argparse.Namespace": argparse.Namespace}):
        with pytest.warns(UserWarning, match="layer2 -> head"):
            model = relight.load(net, "model.ckpt", types=types)
        assert type(model.hparams.args) is argparse.Namespace
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "and only as long as it loads"
    with pytest.raises(relight.UsageError, match="types= takes classes"):
        relight.load(net, "model.ckpt", types=["argparse.Namespace"])


def test_behind_urls(folder):
    """Lightning unpickles what comes by http without care: here nothing is."""
    import http.server
    import threading

    import fsspec
    import nets_of_repairs

    data = (folder / "model.ckpt").read_bytes()
    fsspec.filesystem("memory").pipe("/of_repairs/model.ckpt", data)
    with pytest.warns(UserWarning, match="repaired in memory"):
        model = relight.load(nets_of_repairs.Net, "memory://of_repairs/model.ckpt")
    saved = torch.load("model.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(model.head.weight, saved["layer2.weight"])

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder / "hub"))
    try:
        with pytest.warns(UserWarning, match="repaired in memory"):
            model = relight.load(nets_of_repairs.Net, f"http://127.0.0.1:{server.server_port}/model.ckpt")
    finally:
        torch.hub.set_dir(before)
        server.shutdown()
        server.server_close()
    assert torch.equal(model.head.weight, saved["layer2.weight"])


def test_a_folder_of_several_processes(folder):
    """What Lightning writes with FSDP, put together by Lightning, once its names are known to be harmless."""
    import nets_of_repairs
    from torch.distributed import checkpoint as dcp

    state = {"head.weight": torch.randn(2, 8), "head.bias": torch.randn(2)}
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"model": state}, checkpoint_id="parts.ckpt", no_dist=True)
    torch.save(
        {
            "pytorch-lightning_version": "2.6.6",
            "hparams_name": "kwargs",
            "hyper_parameters": {"args": {}},
        },
        "parts.ckpt/meta.pt",
    )
    args = argparse.Namespace(width=8, out=2)
    model = relight.load(nets_of_repairs.Net, "parts.ckpt", args=args)
    assert torch.equal(model.head.weight, state["head.weight"])

    (folder / "parts.ckpt" / ".metadata").write_bytes(b"cos\nmkdir\n(S'it_ran'\ntR.")
    with pytest.raises(relight.LoadError):
        relight.load(nets_of_repairs.Net, "parts.ckpt", args=args)
    assert not (folder / "it_ran").exists()
    (folder / "empty").mkdir()
    with pytest.raises(relight.LoadError):
        relight.load(nets_of_repairs.Net, "empty")


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

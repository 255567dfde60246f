"""A question that makes no sense is said in a line, with exit status 2; so is a target that never came to its class."""

from __future__ import annotations

import sys

import pytest

import relight as library
from relight.reader import installed

SPEC = ("check", "trained.ckpt", "--target", "trained.spec.json")


@pytest.mark.parametrize(
    "options, said",
    [
        (("--init", "widht=3"), "--init widht: Trained takes no such argument"),
        (("--hparams-file", "no.yaml"), "--hparams-file no.yaml: there is no such file"),
        (("--env", "troch==2.1"), "--env troch==2.1: there is no such package\nDid you mean torch?"),
        (("--env", "pytorch_lightnig==2.1"), "Did you mean pytorch-lightning?"),
        (("--env", "torch==banana"), "'banana' is no version number"),
        (("--env", "torch"), "'torch' is not NAME==VERSION"),
    ],
)
def test_slips(relight, options, said):
    done = relight(*SPEC, *options)
    assert done.status == 2
    assert done.out == ""
    assert said in done.err


@pytest.mark.parametrize("options", [("--env", "torch==2.13.0+cpu"), ("--env", "torchx==1.0"), ("--env", "tor==1")])
def test_no_slips(relight, options):
    assert relight(*SPEC, *options).status == 0


@pytest.mark.torch
@pytest.mark.parametrize("source", ["import sys\nsys.exit(0)\n", "import os\nos._exit(0)\n"])
def test_a_target_that_ends_before_its_class(relight, demo, source):
    (demo / "ends.py").write_text(source)
    done = relight("check", "trained.ckpt", "--target", "ends.py:Net")
    assert done.status == 2
    assert "could not be built" in done.out


class Interactive:
    """Stands for what is typed into a session."""


@pytest.mark.parametrize("value", [Interactive(), lambda: None, 3])
def test_what_another_process_cannot_find(demo, value):
    with pytest.raises(library.UsageError):
        library.check("trained.ckpt", target=value)


def test_a_class_of_a_session(demo, monkeypatch):
    monkeypatch.setattr(Interactive, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(library.UsageError, match="interactive session"):
        library.check("trained.ckpt", target=Interactive)


def test_a_class_of_the_script_that_runs(tmp_path, monkeypatch):
    from relight.live.named import argument_of

    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Interactive, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "train.py"), raising=False)
    assert argument_of(Interactive) == "train.py:Interactive"


def test_modules_of_the_working_directory_are_found(tmp_path, monkeypatch):
    (tmp_path / "my_layers.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    here = installed.current_environment()
    assert installed.resolve_module("my_layers", here).status is installed.ModuleStatus.SOURCE

"""What a class asks of an object besides its values, found in its source."""

from __future__ import annotations

import pytest

from relight.core.target import Target
from relight.facts.class_needs import needs
from relight.facts.facts import Facts
from relight.facts.question import Question
from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing import write


def asked(line, names, tmp_path):
    (tmp_path / "models.py").write_text(f"class Model:\n    def __init__(self, args):\n        {line}\n")
    target = Target(argument="models.py:Model", file=str(tmp_path / "models.py"))
    checkpoint = open_checkpoint(write(File(), tmp_path / "m.ckpt"))
    return needs(Facts(checkpoint, Question(path="m.ckpt"), target, None), names)


@pytest.mark.parametrize(
    "line, name",
    [
        ("assert isinstance(args, Namespace)", "argparse.Namespace"),
        ("x = isinstance(args, (dict, argparse.Namespace))", "argparse.Namespace"),
        ("x = isinstance(args, dict | Namespace)", "argparse.Namespace"),
        ("x = OmegaConf.to_container(args)", "omegaconf.dictconfig.DictConfig"),
        ("x = omegaconf.OmegaConf.merge(args, {})", "omegaconf.dictconfig.DictConfig"),
    ],
)
def test_asked(line, name, tmp_path):
    (found,) = asked(line, [name], tmp_path)
    assert found.endswith(f"models.py:3: {line}")


@pytest.mark.parametrize(
    "line",
    ["x = args.width", "x = isinstance(args, dict)", "x = vars(args)", "x = OmegaConf.to_container(args)", "def ("],
)
def test_not_asked(line, tmp_path):
    assert asked(line, ["argparse.Namespace"], tmp_path) == []

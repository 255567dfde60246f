"""The way from an error to a model, as the README tells it: its program, its commands and what it says they print."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from user_folder import Folder

pytestmark = pytest.mark.torch

README = Path(__file__).parents[2] / "README.md"
OLD_FILE = """
import argparse, torch
body, fc = torch.nn.Linear(32, 64), torch.nn.Linear(64, 10)
state = {f"{n}.{k}": v for n, m in (("body", body), ("fc", fc)) for k, v in m.state_dict().items()}
torch.save({"pytorch-lightning_version": "1.9.0", "epoch": 7, "global_step": 700, "state_dict": state,
            "hparams_name": "kwargs", "hyper_parameters": {"args": argparse.Namespace(width=32, classes=10)}}, "old.ckpt")
"""
# In the language of the documents: what is left out between two lines.
LEFT_OUT = "..."


def section(title: str) -> str:
    return README.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(console: str) -> list[tuple[str, list[str]]]:
    """Every command of a console, and the lines that it prints."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.M)[1:]
    return [(c, out.rstrip().split("\n")) for c, out in zip(parts[::2], parts[1::2], strict=True)]


def shown(told: list[str], real: str) -> bool:
    """Whether a program printed these lines, with anything in place of what is left out."""
    pattern = ""
    for text in told:
        if text.strip() == LEFT_OUT:
            pattern += r"(?:.*\n)*?"
        elif text.endswith(LEFT_OUT):
            pattern += re.escape(text.removesuffix(LEFT_OUT)) + r".*\n"
        else:
            pattern += re.escape(text) + r"\n"
    return re.fullmatch(pattern, real.rstrip() + "\n") is not None


@pytest.fixture
def path_with_commands(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``python`` and ``relight`` are those under test."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("python", ""), ("relight", " -m relight")):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        file.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_from_an_error_to_a_model(tmp_path: Path, path_with_commands: str, tmp_path_factory: pytest.TempPathFactory):
    folder = Folder(tmp_path, tmp_path_factory.mktemp("cache"))
    text = section("From an error to a model")
    folder.write("load.py", blocks(text, "python")[0])
    assert folder.python(OLD_FILE).status == 0
    before = (tmp_path / "old.ckpt").read_bytes()
    steps = commands(blocks(text, "console")[0])
    assert [c.split()[0] for c, _ in steps] == ["relight", "relight", "sed"]
    for command, told in steps:
        answer = folder.shell(command, PATH=path_with_commands)
        said = answer.out + (answer.err if answer.status else "")
        assert shown(told, said), f"{command} prints\n{said}"
    assert (tmp_path / "old.ckpt").read_bytes() == before

    # And what stands below it.
    in_memory = folder.python(
        "import relight, torch, importlib.util as u\n"
        f"source = {blocks(text, 'python')[0]!r}.partition('model = ')[0]\n"
        "open('nets.py', 'w').write(source)\n"
        "from nets import Net\n"
        "a, b = relight.load(Net, 'old.ckpt'), Net.load_from_checkpoint('old.fixed.ckpt')\n"
        "assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))\n"
        "print(relight.report_of(a).repaired)"
    )
    assert in_memory.out == "True\n", in_memory.err


def test_what_is_shown():
    """The comparison itself says no: to a line that is not printed, and to one too many."""
    assert shown(["a", "...", "c ..."], "a\nb\nb\nc d\n")
    assert not shown(["a", "c"], "a\nb\nc\n")
    assert not shown(["a", "...", "d"], "a\nb\nc\n")

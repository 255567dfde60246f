"""``relight seal``: what is added, that nothing else changes, and what a check against it says."""

from __future__ import annotations

import json
import subprocess

import pytest

import relight
from relight.core.manifest import KEY
from relight.facts.manifest import manifest_of
from relight.reader import open_checkpoint

torch = pytest.importorskip("torch")

MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.head = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.act(self.first(x)))


class Other(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(MODEL)
    layers = {"first": torch.nn.Linear(2, 4), "head": torch.nn.Linear(4, 2)}
    torch.save(torch.nn.ModuleDict(layers).state_dict(), "a.pt")
    return tmp_path


def test_a_file_is_sealed_and_a_change_is_seen_later(folder, relight_command):
    before = (folder / "a.pt").read_bytes()
    receipt = relight.seal("a.pt", "b.pt", "nets.py:Net", intent="weights", input=["4x2"])
    assert receipt.proved
    assert (folder / "a.pt").read_bytes() == before
    one, two = torch.load("a.pt", weights_only=True), torch.load("b.pt", weights_only=True)
    assert list(one) == list(two)
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    made = json.loads(two._metadata[KEY])
    assert made["sealed"] == {"target": "nets.py:Net"}
    assert made["probe"]["outputs"][0]["shape"] == [4, 2]
    assert set(made["omitted"]) <= {"training", "command", "repository"}
    assert made["environment"]["packages"]["torch"] == torch.__version__
    # The same model: nothing to say.
    same = relight_command("check", "b.pt", "--target", "nets.py:Net", "--for", "weights")
    assert same.stdout == "b.pt: loads into Net (nets.py)\n"
    # After a change: where, and never a word of a training that nobody saw.
    (folder / "nets.py").write_text(MODEL.replace("ReLU", "GELU"))
    changed = relight_command("check", "b.pt", "--target", "nets.py:Net", "--for", "weights")
    assert changed.returncode == 1
    assert "sealed with ReLU(), now GELU(approximate='none')" in changed.stdout
    assert "outputs differ by up to" in changed.stdout
    assert "trained with" not in changed.stdout
    # Sealed again: the newer seal takes the place of the older.
    relight.seal("b.pt", "c.pt", "nets.py:Net", intent="weights")
    again = manifest_of(open_checkpoint("c.pt"))
    assert again is not None
    assert "GELU" in str(again.data["architecture"])
    assert "no form of an input is known" in again.omitted["probe"]


def test_what_is_not_sealed(folder):
    with pytest.raises(relight.RepairError, match=r"does not load into nets.py:Other: .*size mismatch for head.weight"):
        relight.seal("a.pt", "b.pt", "nets.py:Other", intent="weights")
    torch.save(dict(torch.load("a.pt", weights_only=True)), "dict.pt")
    with pytest.raises(relight.RepairError, match="a plain dict of tensors"):
        relight.seal("dict.pt", "b.pt", "nets.py:Net", intent="weights")
    assert not (folder / "b.pt").exists()


@pytest.fixture
def relight_command():
    import sys

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "relight", *arguments], capture_output=True, text=True, check=False
        )

    return run


def test_a_class_of_another_name_is_compared_by_its_code(folder):
    relight.seal("a.pt", "b.pt", "nets.py:Net", intent="weights", input=["4x2"])
    other = MODEL.partition("class Other")[0].replace("class Net", "class Renamed")
    (folder / "renamed.py").write_text(other)
    same = relight.check("b.pt", target="renamed.py:Renamed", intent="weights")
    assert (same.verdict.value, same.findings) == ("loads", ())
    (folder / "renamed.py").write_text(other.replace("self.act(", "(-1) * self.act("))
    changed = relight.check("b.pt", target="renamed.py:Renamed", intent="weights")
    assert [(f.name, f.subjects) for f in changed.findings] == [("forward-changed", ("Renamed.forward",))]
    assert changed.verdict.value == "loads-wrong"
    assert not any("code of forward" in line for f in changed.findings for line in f.context)

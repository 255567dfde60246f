"""``[tool.relight]`` of pyproject.toml: what a project always asks. What is typed wins."""

from __future__ import annotations

import json

import pytest

from relight.cli.settings import settings
from relight.core.errors import UsageError

LOADS = "trained.ckpt: loads into Trained (models.py)\n"
FAILS = "trained.ckpt: will not load into Grown (models.py)\n"


@pytest.fixture
def project(demo):
    def write(text: str, table: str = "tool.relight"):
        (demo / "pyproject.toml").write_text(f"[project]\nname = 'x'\n[{table}]\n{text}\n", encoding="utf-8")

    return write


def test_a_target(relight, project):
    project('target = "grown.spec.json"')
    assert relight.finds("trained.ckpt", "-q") == FAILS
    assert relight.says("trained.ckpt", "--target", "trained.spec.json", "-q") == LOADS
    assert "Not compared with a model yet" in relight.says("check", "trained.ckpt", "--isolated")


def test_everything_at_once(relight, project):
    project(
        'target = "grown.spec.json"\nfor = "resume"\nselect = ["RL3", "RL5"]\nstrict = false\nweights-only = true\n'
        'map-location = "cpu"\nenv = ["torch==2.13.0", "lightning==2.6.6"]\n'
        '[tool.relight.ignore]\nlayer-added = "trained next"'
    )
    data = json.loads(relight.says("check", "trained.ckpt", "--format", "json"))
    assert data["intent"] == "resume"
    assert data["arguments"] == {"strict": False, "weights_only": True, "map_location": "cpu"}
    assert data["environment"]["origin"] == "the given versions"
    assert [(s["name"], s["reason"]) for s in data["suppressed"]] == [("layer-added", "trained next")]


def test_what_is_typed_wins(relight, project):
    project('target = "grown.spec.json"\nignore = {RL303 = "the project\'s reason"}\nselect = ["RL1"]\nstrict = false')
    assert "ignored" in relight.says("trained.ckpt", "-q")
    assert relight.finds("trained.ckpt", "--select", "RL3", "--strict", "-q") == FAILS
    data = json.loads(relight.says("check", "trained.ckpt", "--ignore", "layer-added=mine", "--format", "json"))
    assert data["suppressed"][0]["reason"] == "mine"
    project('python = "/no/such/python"')
    assert relight.says("check", "trained.ckpt", "--target", "trained.spec.json", "--env", "torch==2.13.0")


def test_a_baseline_lies_beside_the_settings(relight, project, demo, monkeypatch):
    project('target = "grown.spec.json"\nbaseline = "known.json"')
    assert relight("check", "trained.ckpt", "--write-baseline").status == 0
    (demo / "runs").mkdir()
    monkeypatch.chdir(demo / "runs")
    assert relight.says("../trained.ckpt", "-q").endswith("layer-added: in the baseline\n")


def test_the_nearest_file_with_the_table_counts(relight, project, demo, monkeypatch):
    project('target = "models.py:Grown"\npython = "tools/python"')
    (demo / "runs").mkdir()
    (demo / "runs" / "pyproject.toml").write_text("[tool.other]\nrelight = 1\n")
    monkeypatch.chdir(demo / "runs")
    found = settings()
    assert (found.target, found.python) == (("../models.py:Grown",), "../tools/python")
    (demo / "runs" / "pyproject.toml").write_text('[tool.relight]\ntarget = "pkg.models:Net"\npython = "python3"\n')
    found = settings()
    assert (found.target, found.python, found.path) == (("pkg.models:Net",), "python3", "pyproject.toml")


def test_no_settings(demo, project):
    assert settings().path is None
    project("", table="tool.other")
    assert settings().path is None


@pytest.mark.parametrize(
    "text, reason",
    [
        ("targets = 'a'", "pyproject.toml: [tool.relight] has no setting 'targets'\nDid you mean target?"),
        ("weights_only = true", "has no setting 'weights_only'\nDid you mean weights-only?"),
        ("zzz = 1", "has no setting 'zzz'\nIt may hold: baseline, env, for,"),
        ("target = 3", "target is a list of texts"),
        ("select = [1]", "select is a list of texts"),
        ("strict = 'no'", "strict is true or false"),
        ("baseline = true", "baseline is a text"),
        ("for = 'training'", "for is one of load, resume, weights"),
        ("ignore = ['RL303']", "ignore is a table of rules and reasons\nAs in: ignore = {"),
        ("ignore = {RL303 = ''}", "ignore is a table of rules and reasons"),
        ("ignore = {RL303 = 'x', layer-aded = 'y'}", "no rule is called 'layer-aded'"),
        ("select = ['nothing-like-it']", "no rule is called 'nothing-like-it'"),
        ("python = 'a'\nenv = ['torch==2.0']", "env and python both say where"),
        ("[", "pyproject.toml is no TOML"),
    ],
)
def test_what_is_refused(relight, project, text, reason):
    project(text)
    assert reason in relight.refuses("check", "trained.ckpt")
    assert relight("check", "trained.ckpt", "--isolated").status == 0


def test_commands_that_need_no_settings_do_not_read_them(relight, project):
    project("[")
    assert relight("inspect", "trained.ckpt").status == 0


def test_a_file_that_is_no_text(demo):
    (demo / "pyproject.toml").write_bytes(b"[tool.relight]\nx = '\xff'")
    with pytest.raises(UsageError, match="is no TOML"):
        settings()

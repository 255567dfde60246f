"""Every known failure of files and paths is told, by its name and with a remedy that helps, or is somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from file_failures import KNOWN

from relight import check
from relight.core.errors import SourceError
from relight.core.finding import FixKind, Severity, Verdict
from relight.core.target import Environment
from relight.reader import open_checkpoint
from relight.report import inspect_json, inspect_text
from relight.report.layout import Style
from relight.rulekit import File
from relight.rulekit.registry import all_rules
from relight.testing.recipes import contents

IDS = json.loads((Path(__file__).parents[1] / "corpus" / "causes_of_files.json").read_text())
FILES = [pytest.param(cause, name, id=f"{cause}-{name}") for cause, known in KNOWN.items() for name in known.files]
NEW = Environment.from_dict({"python": "3.11.7", "torch": "2.13.0", "pytorch-lightning": "2.6.6"})


def test_no_id_is_forgotten():
    assert sorted(KNOWN) == sorted(IDS)
    for known in KNOWN.values():
        # Shown by files or by another test, or somebody else's: exactly one of them.
        assert sum(map(bool, (known.files, known.elsewhere, known.outside))) == 1
        assert not known.files or known.rule or known.problem


def test_a_rule_that_tells_an_id_says_so():
    causes = {rule.code: rule.causes for rule in all_rules()}
    for cause, known in KNOWN.items():
        if known.rule:
            assert (known.cause or cause) in causes[known.rule], cause


@pytest.fixture
def file(tmp_path):
    def make(cause, name):
        path = tmp_path / "model.ckpt"
        path.write_bytes(KNOWN[cause].files[name]())
        return path

    return make


@pytest.mark.parametrize("cause, name", FILES)
def test_check_tells_it(cause, name, file):
    known = KNOWN[cause]
    report = check(file(cause, name), intent="weights", environment=NEW)
    found = [(f.code, f.cause) for f in report.findings]
    assert found == ([(known.rule, known.cause or cause)] if known.rule else [])
    failing = known.rule != "" and not known.problem
    assert (report.verdict is Verdict.FAILS) is failing
    for finding in report.findings:
        assert finding.severity is (Severity.ERROR if failing else Severity.WARNING)
        assert finding.fixes
        for fix in finding.fixes:
            if not known.unrestricted:
                assert "weights_only=False" not in f"{fix.title}{fix.code}{fix.command}"
            # A file that is cut or damaged has to come from elsewhere; what is another format has not.
            assert fix.kind is not FixKind.ENVIRONMENT


@pytest.mark.parametrize("cause, name", FILES)
def test_inspect_tells_it(cause, name, file):
    known = KNOWN[cause]
    checkpoint = open_checkpoint(file(cause, name))
    text = inspect_text.render(checkpoint, Style())
    problems = inspect_json.to_dict(checkpoint)["problems"]
    if known.problem:
        assert known.problem in [p["kind"] for p in problems]
        assert not any(p["fatal"] for p in problems)
        assert "note:" in text
    elif not known.unrestricted and cause not in ("safetensors-as-ckpt",):
        assert any(p["fatal"] for p in problems)
    assert "weights_only" not in text


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("cause, name", FILES)
def test_advice_is_the_same_where_an_argument_was_passed(cause, name, weights_only, file):
    known = KNOWN[cause]
    report = check(file(cause, name), intent="weights", weights_only=weights_only, environment=NEW)
    if known.unrestricted and not weights_only:
        assert report.findings == ()
    else:
        assert [f.cause for f in report.findings] == ([known.cause or cause] if known.rule else [])


# ---------------------------------------------------------------- paths


def test_a_folder(tmp_path):
    for name in ("epoch=1.ckpt", "epoch=2.ckpt", "metrics.csv"):
        (tmp_path / name).write_bytes(contents(File()))
    (tmp_path / "last.ckpt").symlink_to(tmp_path.parent / "gone.ckpt")
    (finding,) = check(tmp_path, intent="weights", environment=NEW).findings
    assert (finding.code, finding.cause) == ("RL101", "folder-instead-of-file")
    assert "Inside: epoch=1.ckpt, epoch=2.ckpt." in finding.context


def test_a_folder_without_checkpoints(tmp_path):
    (finding,) = check(tmp_path, intent="weights", environment=NEW).findings
    assert "Nothing in it looks like one." in finding.context


@pytest.mark.parametrize(
    "path, reason",
    [
        ("epoch=3.ckpt", "there is no such file; this folder has epoch=1.ckpt, last-v1.ckpt"),
        ("gone/epoch=3.ckpt", "there is no such folder"),
        ("empty/epoch=3.ckpt", "there is no such file"),
        ("last.ckpt", "it is a link to 'gone.ckpt', and nothing is there"),
        ("best", "there is no such file; 'best' is a word for a Trainer, which looks for the file itself"),
        ("last", "there is no such file; 'last' is a word for a Trainer, which looks for the file itself"),
        ("hpc", "there is no such file; 'hpc' is a word for a Trainer, which looks for the file itself"),
        ("", "the path is empty"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, monkeypatch, path, reason):
    monkeypatch.chdir(tmp_path)
    for name in ("epoch=1.ckpt", "last-v1.ckpt", "odd\n.ckpt", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        open_checkpoint(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["best", "a:b.ckpt", "epoch=1-step=2.ckpt", "model-x:v0/model.ckpt"])
def test_paths_that_look_odd_and_are_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(contents(File()))
    assert len(open_checkpoint(name).tensors) == 2

"""Which class was this? Several targets, ranked by what fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from inline_snapshot import snapshot

import relight as package
from relight.core.target import ModelSpec

SPECS = ("grown.spec.json", "renamed.spec.json", "trained.spec.json", "classic.spec.json")


def several(*specs):
    return tuple(part for s in specs for part in ("--target", s))


def test_the_best_stands_first(relight):
    assert relight.says("check", "trained.ckpt", *several(*SPECS)) == snapshot("""\
trained.ckpt: loads into Trained (models.py), the best of 4 classes
  Trained  6 of 6 tensors
  Renamed  4 of 6 tensors, 2 renamed                            [renamed-module]
  Grown    6 of 6 tensors, 2 missing                               [layer-added]
  Classic  0 of 6 tensors, 6 missing                               [keys-differ]
  Not visible in this file (no manifest): activations, dropout, forward.
""")


def test_the_report_of_the_best_follows(relight):
    out = relight.finds("check", "trained.ckpt", *several("grown.spec.json", "classic.spec.json"))
    alone = relight.finds("check", "trained.ckpt", "--target", "grown.spec.json")
    assert out.splitlines()[0] == "trained.ckpt: will not load into Grown (models.py), the best of 2 classes"
    assert out.endswith(alone.partition("\n")[2])


def test_what_is_wrong_with_the_file_is_said_once(relight):
    out = relight.finds("check", "injected.ckpt", *several("classic.spec.json", "injected.spec.json"))
    assert out.splitlines()[:3] == [
        "injected.ckpt: will not load into Injected (models.py), the best of 2 classes",
        "  Injected  4 of 4 tensors",
        "  Classic   0 of 4 tensors, 6 missing                              [keys-differ]",
    ]
    assert out.count("[module-not-found]") == 1


def test_what_names_and_shapes_cannot_tell_apart(relight, demo):
    shutil.copy("trained.spec.json", "again.spec.json")
    spec = json.loads(Path("again.spec.json").read_text())
    Path("again.spec.json").write_text(json.dumps({**spec, "class_name": "Again"}))
    out = relight.says("check", "trained.ckpt", *several("trained.spec.json", "again.spec.json", "grown.spec.json"))
    assert "  As good: Again. Names and shapes of tensors cannot tell them apart.\n" in out
    data = json.loads(
        relight.says("check", "trained.ckpt", *several("trained.spec.json", "again.spec.json"), "--format", "json")
    )
    assert (data["best"], data["as_good"]) == ("trained.spec.json", ["again.spec.json"])


def test_a_file_that_fits_none(relight):
    out = relight.finds("check", "classic.ckpt", *several("renamed.spec.json", "trained.spec.json"), "-q")
    assert out == "classic.ckpt: fits none of 2 classes\n"


def test_a_file_that_cannot_be_read(relight, demo):
    (demo / "x.ckpt").write_bytes(b"<html></html>")
    out = relight.finds("check", "x.ckpt", *several("grown.spec.json", "trained.spec.json"), "-q")
    assert out.startswith("x.ckpt: will not load")


@pytest.mark.parametrize("specs", [SPECS, ("grown.spec.json", "classic.spec.json")])
def test_status_and_python(relight, specs):
    ranking = package.rank_targets("trained.ckpt", specs)
    answer = relight("check", "trained.ckpt", *several(*specs))
    assert answer.status == int(ranking.report.failed)
    assert answer.out == f"{ranking}\n" == ranking.text(width=80)
    assert isinstance(ranking.report, package.Report)


def test_models_that_are_specs(relight):
    specs = [ModelSpec.from_dict(json.loads(Path(s).read_text())) for s in SPECS]
    ranking = package.rank_targets("trained.ckpt", specs)
    assert [c.name for c in ranking.candidates] == ["Trained", "Renamed", "Grown", "Classic"]
    assert ranking.best.fit.to_dict() == {"fits": 6, "renamed": 0, "mismatched": 0, "file": 6, "model": 6}


def test_in_markdown(relight):
    out = relight.says("check", "trained.ckpt", *several(*SPECS), "--format", "markdown")
    assert "| `Grown` | 6 of 6 tensors, 2 missing | \\[layer-added\\] |" in out


def test_suppressed_findings_of_the_best(relight):
    arguments = ("check", "trained.ckpt", *several("grown.spec.json", "classic.spec.json"))
    out = relight.says(*arguments, "--ignore", "layer-added=known", "-q")
    assert out == "trained.ckpt: will not load into Grown (models.py); layer-added: ignored, the best of 2 classes\n"


def test_a_baseline_is_of_one_model(relight):
    arguments = (*several("grown.spec.json", "classic.spec.json"), "--baseline", "b.json", "--write-baseline")
    assert "is for one model" in relight.refuses("check", "trained.ckpt", *arguments)


@pytest.mark.parametrize("arguments", [("spec", "models.py:*"), ("map", "trained.ckpt", "--target", "models.py:*")])
def test_commands_that_are_about_one_model(relight, arguments):
    assert "means several models" in relight.refuses(*arguments)


def test_a_file_that_is_not_there(relight):
    assert relight.refuses("check", "trained.ckpt", "--target", "modls.py:*") == (
        "relight: --target modls.py:*: there is no such file or module\n"
    )

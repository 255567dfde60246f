"""What a person does not want to see: selected, ignored, known from before. The answer stays what it is."""

from __future__ import annotations

import json

import pytest
from inline_snapshot import snapshot

import relight as package
from relight.core.finding import Suppression
from relight.engine import baseline as baselines

GROWN = ("check", "trained.ckpt", "--target", "grown.spec.json")


@pytest.mark.parametrize("selector", ["layer-added", "RL303", "rl303", "RL3", "RL30", "RL101,layer-added"])
def test_ignored_by_name_code_or_prefix(relight, selector):
    out = relight.says(*GROWN, "--ignore", f"{selector}=a new layer")
    assert out == "trained.ckpt: will not load into Grown (models.py); layer-added: ignored\n"
    data = json.loads(relight.says(*GROWN, "--ignore", f"{selector}=a new layer", "--format", "json"))
    assert (data["verdict"], data["findings"]) == ("fails", [])
    assert data["suppressed"][0]["reason"] == "a new layer"


def test_the_more_exact_reason_counts(relight):
    out = relight.says(*GROWN, "--ignore", "RL3=all keys", "--ignore", "layer-added=this one", "-v")
    assert "ignored: this one" in out


def test_a_rule_that_is_not_there(relight):
    assert relight.refuses(*GROWN, "--ignore", "layer-aded=x") == (
        "relight: no rule is called 'layer-aded'\nDid you mean layer-added or layer-removed?\n"
    )
    assert "no rule is called 'RL39Z'" in relight.refuses(*GROWN, "--select", "RL39Z")
    assert "no reason behind the =" in relight.refuses(*GROWN, "--ignore", "RL303=")


@pytest.mark.parametrize("option", ["RL3", "RL101,RL303", "layer-added"])
def test_selected(relight, option):
    assert relight.finds(*GROWN, "--select", option) == relight.finds(*GROWN)


def test_not_selected(relight):
    assert relight.says(*GROWN, "--select", "RL1", "--select", "tied-key") == (
        "trained.ckpt: will not load into Grown (models.py); layer-added: not selected\n"
    )


def test_what_is_ignored_wins_over_what_is_selected(relight):
    assert "layer-added: ignored" in relight.says(*GROWN, "--select", "RL3", "--ignore", "RL303=known")


def test_only_a_wrong_load_is_ignored(relight):
    assert relight.says(*GROWN, "--no-strict", "--ignore", "RL303=it is trained next") == (
        "trained.ckpt: loads WITHOUT AN ERROR, BUT WRONG, into Grown (models.py); layer-added: ignored\n"
        "  Not visible in this file (no manifest): activations, dropout, forward.\n"
    )


def test_one_of_two_is_ignored(relight):
    """The other finding shows only once the ignored one is mended: the real call raises the ignored one first."""
    arguments = ("check", "injected.ckpt", "--target", "grown.spec.json")
    assert relight.finds(*arguments).splitlines()[0] == "injected.ckpt: will not load into Grown (models.py)"
    out = relight.finds(*arguments, "--ignore", "module-not-found=put on the path later")
    lines = out.splitlines()
    assert lines[0] == "injected.ckpt: will not load into Grown (models.py)"
    assert "Shows only once module-not-found is mended:" in lines
    assert lines[-1] == "Not shown: module-not-found (ignored)."
    whole = package.check("injected.ckpt", target="grown.spec.json")
    less = package.check("injected.ckpt", target="grown.spec.json", ignore={"RL202": "later"})
    assert less.prediction == whole.prediction
    assert less.failed


def test_a_gate_that_is_ignored_still_gates(relight):
    """Half a file is not compared with a model, whoever ignores that it is half a file."""
    out = relight.says(
        "check", "download.ckpt", "--target", "trained.spec.json", "--ignore", "truncated-file=known", "-v"
    )
    assert out.splitlines()[0] == "download.ckpt: will not load into Trained (models.py); truncated-file: ignored"
    assert "because RL102" in " ".join(out.split())


def test_exit_zero(relight):
    assert relight.says(*GROWN, "--exit-zero") == relight.finds(*GROWN)
    assert relight("check", "nothing.ckpt", "--exit-zero").status == 2


def test_explained(relight):
    out = relight.finds(*GROWN, "--explain")
    assert out.removeprefix(relight.finds(*GROWN)) == snapshot("""\

  Why: load_state_dict(strict=True) wants every key: Missing key(s) in
  state_dict.
  Settled by: torch/nn/modules/module.py, Module.load_state_dict
    https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py
  More: relight explain layer-added
""")


def test_explained_in_markdown(relight):
    out = relight.finds(*GROWN, "--explain", "--format", "markdown")
    assert "(https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py)" in out


# ---------------------------------------------------------------- baselines


def written(relight, *arguments, file="known.json"):
    answer = relight(*arguments, "--baseline", file, "--write-baseline")
    assert answer.status == 0
    return answer


def test_a_baseline(relight, demo):
    answer = written(relight, *GROWN)
    assert answer.err == "relight: 1 finding more accepted in known.json\n"
    assert answer.out == "trained.ckpt: will not load into Grown (models.py); layer-added: in the baseline\n"
    assert relight.says(*GROWN, "--baseline", "known.json") == answer.out
    assert (demo / "known.json").read_text() == snapshot("""\
{
  "schema": "relight/baseline/1",
  "findings": [
    {
      "file": "trained.ckpt",
      "target": "grown.spec.json",
      "for": "load",
      "code": "RL303",
      "name": "layer-added",
      "cause": "layer-added",
      "severity": "error",
      "message": "the model has a layer that the checkpoint lacks",
      "subjects": [
        "attention.weight",
        "attention.bias"
      ],
      "subject_count": 2,
      "fingerprint": "d7691ed895a7d5ba"
    }
  ]
}
""")


def test_later_findings_are_not_accepted(relight):
    written(relight, *GROWN)
    other = relight.finds("check", "trained.ckpt", "--target", "renamed.spec.json", "--baseline", "known.json")
    assert "[renamed-module]" in other


def test_another_file_is_not_accepted(relight, demo):
    written(relight, *GROWN)
    (demo / "copy.ckpt").write_bytes((demo / "trained.ckpt").read_bytes())
    assert "[layer-added]" in relight.finds(
        "check", "copy.ckpt", "--target", "grown.spec.json", "--baseline", "known.json"
    )


def test_a_finding_that_got_worse_is_not_accepted(relight):
    """Accepted as a warning of --no-strict, it is an error of a strict load."""
    written(relight, *GROWN, "--no-strict")
    assert "[layer-added]" in relight.finds(*GROWN, "--baseline", "known.json")


def test_the_folder_does_not_matter(relight, demo, monkeypatch):
    written(relight, *GROWN)
    (demo / "below").mkdir()
    monkeypatch.chdir(demo / "below")
    assert "in the baseline" in relight.says(
        "check", "../trained.ckpt", "--target", "../grown.spec.json", "--baseline", "../known.json"
    )


def test_what_is_written_stands_for_one_question(relight, demo):
    written(relight, *GROWN)
    written(relight, "check", "trained.ckpt", "--target", "renamed.spec.json")
    names = [k["name"] for k in json.loads((demo / "known.json").read_text())["findings"]]
    assert names == ["layer-added", "renamed-module"]
    before = (demo / "known.json").read_bytes()
    written(relight, *GROWN)
    assert (demo / "known.json").read_bytes() == before, "written again, it is the same"
    # The model has been mended: what was accepted for this question is accepted no longer.
    report = package.check("trained.ckpt", target="trained.spec.json")
    report = package.write_baseline("known.json", report)
    assert report.verdict is package.Verdict.LOADS
    assert len(baselines.read("known.json").known) == 2


def test_what_is_ignored_is_not_written(relight, demo):
    written(relight, *GROWN, "--ignore", "RL303=known")
    assert json.loads((demo / "known.json").read_text())["findings"] == []


def test_a_baseline_that_is_none(relight, demo):
    assert "there is no such file\nWrite it with" in relight.refuses(*GROWN, "--baseline", "no.json")
    (demo / "a.json").write_text("[1")
    (demo / "b.json").write_text('{"findings": []}')
    (demo / "c.json").write_text('{"schema": "relight/baseline/1", "findings": [{"code": 1}]}')
    for name in ("a.json", "b.json", "c.json"):
        assert relight.refuses(*GROWN, "--baseline", name).startswith(f"relight: --baseline {name}: ")
    assert "name it with --baseline" in relight.refuses(*GROWN, "--write-baseline")


def test_from_python(demo):
    report = package.check("trained.ckpt", target="grown.spec.json")
    accepted = package.write_baseline("known.json", report)
    assert isinstance(accepted, package.Report)
    assert [s.how for s in accepted.suppressed] == [Suppression.BASELINE]
    again = package.check("trained.ckpt", target="grown.spec.json", baseline="known.json")
    assert again.to_dict() == accepted.to_dict()

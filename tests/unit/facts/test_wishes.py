"""Parts of a training that are kept, and options that get another value."""

from __future__ import annotations

from pathlib import Path

import pytest

import relight
from relight.core.errors import UsageError
from relight.core.objects import ListNode, mapping_get
from relight.facts.lightning import LightningView

FULL = Path(__file__).parents[2] / "corpus" / "checkpoints" / "E26" / "full.ckpt"
HERE = {"lightning": "2.6.6", "torch": "2.13.0"}


def fixed(tmp_path, **wishes):
    copy = tmp_path / "copy.ckpt"
    receipt = relight.fix(FULL, copy, intent="resume", environment=HERE, **wishes)
    return LightningView(relight.inspect(copy)), receipt


def group(view):
    return mapping_get(view.get("optimizer_states").items[0], "param_groups").items[0]


def test_a_learning_rate_goes_to_groups_and_schedulers(tmp_path):
    view, receipt = fixed(tmp_path, options={"optimizer.lr": 0.5})
    assert mapping_get(group(view), "lr") == 0.5
    assert mapping_get(view.get("lr_schedulers").items[0], "_last_lr").items == [0.5]
    assert receipt.proved


def test_what_is_not_kept_begins_anew(tmp_path):
    view, receipt = fixed(tmp_path, keep=["weights", "optimizer"])
    assert isinstance(view.get("lr_schedulers"), ListNode)
    assert view.get("lr_schedulers").items == []
    assert (view.epoch, view.global_step, mapping_get(group(view), "lr")) == (0, 0, 0.01)
    again = relight.check(receipt.written.path, intent="resume", environment=HERE)
    assert again.findings == ()
    assert again.summary["resumes_at"] == {"epoch": 0, "step": 0}


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"keep": ["optimizer"]}, "weights in any case"),
        ({"keep": ["weights", "moments"]}, "no part 'moments'"),
        ({"options": {"optimizer.momentum": 0.9}}, "has no momentum"),
        ({"options": {"lr": 0.9}}, "no such option"),
        ({"options": {"scheduler.step_size": 3}}, "the scheduler in the file has no step_size"),
        ({"options": {"scheduler.total_steps": 3}}, "what follows from it is in the file as well"),
        ({"options": {"optimizer.lr": "high"}}, "no number"),
        ({"keep": ["weights", "schedulers"]}, "learning rates in the optimizer's state"),
        ({"options": {"optimizer.lr": -1}}, "negative"),
        ({"keep": ["weights"], "options": {"optimizer.lr": 0.1}}, "contradict"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, wishes, said):
    with pytest.raises(UsageError, match=said):
        fixed(tmp_path, **wishes)
    assert not list(tmp_path.iterdir())


def test_they_are_for_a_resume_only(tmp_path):
    with pytest.raises(UsageError, match="for a resume"):
        relight.fix(FULL, tmp_path / "copy.ckpt", options={"optimizer.lr": 0.1})


STEPS = FULL.with_name("full_step.ckpt")


def test_a_schedule_that_begins_anew_begins_with_its_first_learning_rate(tmp_path):
    before = LightningView(relight.inspect(STEPS))
    first = mapping_get(group(before), "initial_lr")
    assert mapping_get(group(before), "lr") != first
    relight.fix(STEPS, tmp_path / "c.ckpt", intent="resume", environment=HERE, keep=["weights", "optimizer", "loops"])
    assert mapping_get(group(LightningView(relight.inspect(tmp_path / "c.ckpt"))), "lr") == first
    copy = tmp_path / "d.ckpt"
    relight.fix(
        STEPS, copy, intent="resume", environment=HERE, keep=["weights", "optimizer"], options={"optimizer.lr": 0.5}
    )
    assert mapping_get(group(LightningView(relight.inspect(copy))), "lr") == 0.5


def test_copies_are_not_written_for_versions_that_keep_no_loops(tmp_path):
    with pytest.raises(UsageError, match="and newer, not for 1"):
        relight.fix(FULL, tmp_path / "c.ckpt", intent="resume", environment={"lightning": "1.5.10"})
    report = relight.check(FULL, intent="resume", environment={"lightning": "1.5.10", "torch": "1.10.2"})
    assert any("before 1.6" in u for u in report.unknown)

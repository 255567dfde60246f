"""Where a training stood, where Lightning starts, and what makes the two the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.core.edits import SetEntry
from relight.facts.lightning import LightningView
from relight.facts.resume import Point, fit_loop, resume
from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing import write

CORPUS = Path(__file__).parents[2] / "corpus" / "checkpoints"


def of(name, lightning, manual=None):
    return resume(LightningView(open_checkpoint(CORPUS / f"{name}.ckpt")), lightning, manual)


@pytest.mark.parametrize(
    ("name", "lightning", "saved", "starts"),
    [
        ("E07/full", "2.6.6", Point(2, 8), Point(0, 9)),
        ("E10/mid_epoch", "2.6.6", Point(1, 6), Point(0, 7)),
        ("E15/full", "1.8.0", Point(2, 8), Point(0, 9)),
        ("E15/full", "1.5.10", Point(2, 8), Point(2, 9)),
        ("E18/full", "2.6.6", Point(2, 8), Point(2, 8)),
        ("E18/gan", "1.9.5", Point(2, 16), Point(2, 16)),
        ("E18/gan", "2.6.6", Point(2, 16), Point(2, 0)),
        ("E20/modelcheckpoint_file", "2.6.6", Point(2, 8), Point(2, 8)),
        ("E26/full", "1.9.5", Point(2, 8), Point(2, 0)),
        ("E26/full", "1.8.0", Point(2, 8), Point(2, 8)),
        ("E26/gan", "1.9.5", Point(2, 16), Point(2, 0)),
    ],
)
def test_as_the_real_trainers_do(name, lightning, saved, starts):
    found = of(name, lightning)
    assert (found.saved, found.starts) == (saved, starts)
    assert bool(found.edits) is (saved != starts and lightning != "1.5.10")


def view(tmp_path, version, **extra):
    whole = {"optimizer_states": [], "lr_schedulers": [], **extra}
    return LightningView(open_checkpoint(write(File(version=version, extra=whole), tmp_path / "model.ckpt")))


def test_epochs_of_equal_length_tell_the_number_of_steps_where_no_optimizer_does(tmp_path):
    assert resume(view(tmp_path, "1.5.0", epoch=4, global_step=41), "2.6.6").saved == Point(4, 40)


def test_what_the_file_does_not_tell_is_said_and_stays(tmp_path):
    found = resume(view(tmp_path, "1.5.0", epoch=1, global_step=41), "2.6.6")
    assert found.saved == Point(1, 41)
    assert "is not known" in found.unsure


@pytest.mark.parametrize("old", [True, False])
def test_added_loops_are_read_as_they_were_meant(tmp_path, old):
    version = "1.8.0" if old else "2.6.0"
    loops = {"fit_loop": fit_loop(Point(3, 12), 12, old=old)}
    found = resume(view(tmp_path, version, epoch=3, global_step=12, loops=loops), "2.6.6")
    assert (found.right, found.edits) == (True, ())


def test_partial_loops_are_replaced_as_a_whole(tmp_path):
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 3}}}}
    found = resume(view(tmp_path, "2.6.0", epoch=3, global_step=12, loops=loops), "2.6.6")
    assert [e.path for e in found.edits if isinstance(e, SetEntry)] == [("loops", "fit_loop")]


def test_a_model_that_optimizes_manually_reads_the_other_counter():
    assert of("E18/full", "2.6.6", manual=True).starts == Point(2, 0)
    assert of("E18/full", "2.6.6", manual=True).edits

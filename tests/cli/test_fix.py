"""``relight fix``: what is said, what is written, and what is not."""

from __future__ import annotations

import json

import pytest
from inline_snapshot import snapshot

from relight.reader import open_checkpoint


def test_renamed(relight, demo):
    before = (demo / "trained.ckpt").read_bytes()
    assert relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "-o", "copy.ckpt") == snapshot("""\
copy.ckpt: written, 1 change, proved
  head  -> classifier  (2 tensors)
  6 tensors are what they were: 24 storages read again, equal by checksum.
  Checked again: no findings. Not loaded: the target is described, not there.
""")
    assert (demo / "trained.ckpt").read_bytes() == before
    assert {t.key for t in open_checkpoint(demo / "copy.ckpt").tensors} >= {"classifier.weight", "classifier.bias"}
    assert relight("check", "copy.ckpt", "--target", "renamed.spec.json").status == 0


def test_quiet(relight):
    out = relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "-q")
    assert out == snapshot("trained.fixed.ckpt: written, 1 change, proved\n")


def test_plan_only(relight, demo):
    before = sorted(p.name for p in demo.iterdir())
    assert relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "--plan-only") == snapshot("""\
trained.ckpt: 1 edit would be made
  head  -> classifier  (2 tensors)

For:
  head in the checkpoint is classifier in the model [renamed-module]
""")
    assert sorted(p.name for p in demo.iterdir()) == before


def test_what_is_not_done_unasked(relight, demo):
    answer = relight("fix", "injected.ckpt", "--target", "injected.spec.json", "-o", "copy.ckpt")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == snapshot(
        """\
relight: cannot repair injected.ckpt: nothing is done to it unasked
  --allow drop-object  You do not have the source: write a copy without the object, and pass one yourself
"""
    )
    assert not (demo / "copy.ckpt").exists()


def test_what_is_allowed(relight, demo):
    arguments = ("fix", "injected.ckpt", "--target", "injected.spec.json", "-o", "copy.ckpt", "--allow", "drop-object")
    assert relight.says(*arguments) == snapshot("""\
copy.ckpt: written, 1 change, proved but for what is left out
  hyper_parameters.layer  my_custom_module.MyCustomLayer -> left out
  4 tensors are what they were: 4 storages read again, equal by checksum.
  Checked again: no findings. Not loaded: the target is described, not there.

Left out, and only in the old file:
  hyper_parameters.layer: my_custom_module.MyCustomLayer is left out
""")
    assert b"my_custom_module" not in (demo / "copy.ckpt").read_bytes()


def test_nothing_to_do(relight):
    answer = relight("fix", "trained.ckpt", "--target", "trained.spec.json")
    assert (answer.status, answer.err) == (
        1,
        snapshot("relight: cannot repair trained.ckpt: nothing is wrong with it\n"),
    )


def test_not_mended_in_the_file(relight):
    answer = relight("fix", "trained.ckpt", "--target", "grown.spec.json")
    assert (answer.status, answer.err) == (
        1,
        snapshot("""\
relight: cannot repair trained.ckpt: nothing is done to it unasked
  --allow new-layers  Or put first values into a copy, as such layers of torch begin, for a strict load
"""),
    )


def test_a_name_that_nothing_has(relight):
    arguments = ("fix", "trained.ckpt", "--target", "renamed.spec.json", "--allow", "anything")
    assert relight.refuses(*arguments) == snapshot("""\
relight: there is nothing called anything to allow
Nothing in this file needs permission.
""")


def test_nothing_is_written_over(relight, demo):
    (demo / "copy.ckpt").write_bytes(b"mine")
    arguments = ("fix", "trained.ckpt", "--target", "renamed.spec.json", "-o", "copy.ckpt")
    assert relight.refuses(*arguments) == snapshot(
        "relight: cannot repair trained.ckpt: copy.ckpt is there already, and is not written over\n"
    )
    assert (demo / "copy.ckpt").read_bytes() == b"mine"


def test_a_plan_for_another_file(relight, demo):
    plan = relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "--plan-only", "--format", "json")
    (demo / "plan.json").write_text(plan)
    assert relight.refuses("fix", "gpu.ckpt", "--plan", "plan.json", "-o", "copy.ckpt") == snapshot(
        "relight: cannot repair gpu.ckpt: the plan is for another file, or the file has changed since\n"
    )
    assert not (demo / "copy.ckpt").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "relight/plan/1"}', "{"])
def test_no_plan(relight, demo, content):
    (demo / "plan.json").write_text(content)
    assert "--plan plan.json: " in relight.refuses("fix", "trained.ckpt", "--plan", "plan.json")


def test_a_proof_that_fails_leaves_no_copy(relight, demo, monkeypatch):
    from relight.repair import proof

    monkeypatch.setattr(
        proof, "compared", lambda *a, **k: [("untouched tensors", False, "storage 0 is not what it was")]
    )
    arguments = ("fix", "trained.ckpt", "--target", "renamed.spec.json", "-o", "copy.ckpt")
    assert relight.refuses(*arguments) == snapshot(
        "relight: cannot repair trained.ckpt: no copy, the proof fails: untouched tensors: storage 0 is not what it was\n"
    )
    assert not (demo / "copy.ckpt").exists()


def test_bytes_of_untouched_tensors(relight):
    out = relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "--prove", "bytes", "--format", "json")
    checks = {c["check"]: c["text"] for c in json.loads(out)["checks"]}
    assert checks["untouched tensors"] == "24 storages read again, equal byte by byte"


def test_a_plan_that_puts_code_into_a_file(relight, demo):
    """A plan may come from anywhere: a copy that would run code when the file did not is no copy."""
    plan = json.loads(
        relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "--plan-only", "--format", "json")
    )
    plan["edits"] = [{"edit": "replace-global", "old": "collections.OrderedDict", "new": "os.system"}]
    (demo / "plan.json").write_text(json.dumps(plan))
    answer = relight("fix", "trained.ckpt", "--target", "trained.spec.json", "--plan", "plan.json", "-o", "copy.ckpt")
    assert answer.status == 2
    assert not (demo / "copy.ckpt").exists()


def test_a_bar_where_it_takes_long(monkeypatch):
    """On a terminal, on the error stream, and only once it is clear that it takes a moment."""
    import io
    import sys

    from relight.cli import options

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for late, shown in ((-1, "writing  [####"), (60, "")):
        monkeypatch.setattr(options, "_LATE", late)
        monkeypatch.setattr(sys, "stderr", Terminal())
        with options.late_bar(100, "writing", quiet=False) as update:
            update(20)
            update(80)
        assert shown in sys.stderr.getvalue()
        assert bool(sys.stderr.getvalue()) == bool(shown)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with options.late_bar(100, "writing", quiet=False) as update:
        assert update is None


def test_in_place_and_back(relight, demo):
    before = (demo / "trained.ckpt").read_bytes()
    assert relight.says("fix", "trained.ckpt", "--target", "renamed.spec.json", "--in-place") == snapshot("""\
trained.ckpt: written, 1 change, proved
  head  -> classifier  (2 tensors)
  6 tensors are what they were: 24 storages lie where they lay.
  Checked again: no findings. Not loaded: the target is described, not there.
""")
    assert (demo / "trained.ckpt").read_bytes().startswith(before)
    assert relight.says("check", "trained.ckpt", "--target", "renamed.spec.json").startswith("trained.ckpt: loads")
    assert relight.says("fix", "trained.ckpt", "--undo") == snapshot("trained.ckpt: what it was, 10,395 bytes\n")
    assert (demo / "trained.ckpt").read_bytes() == before
    assert relight.refuses("fix", "trained.ckpt", "--undo") == snapshot(
        "relight: cannot repair trained.ckpt: it was not repaired in place: there is nothing to take back\n"
    )
    both = relight.refuses("fix", "trained.ckpt", "--target", "renamed.spec.json", "--in-place", "-o", "x.ckpt")
    assert "--in-place and -o exclude each other" in both
    injected = ("fix", "injected.ckpt", "--target", "injected.spec.json", "--allow", "drop-object", "--in-place")
    assert relight.refuses(*injected) == (
        "relight: cannot repair injected.ckpt: not in place: what is to go would stay in the file: a repair for safety's "
        "sake is a new file. -o writes a new file\n"
    )


def test_names_that_the_user_tells(relight, demo):
    asked = ("fix", "trained.ckpt", "--target", "renamed.spec.json")
    assert "head  -> classifier  (2 tensors)" in relight.says(*asked, "--rename", "head.*=classifier", "-o", "x.ckpt")
    for told, said in {
        "head": "'head' is not OLD=NEW",
        "heads=classifier": "the checkpoint has no heads; did you mean head?",
        "head=clasifier": "the model has no clasifier.weight; did you mean classifier?",
    }.items():
        assert said in " ".join(relight.refuses(*asked, "--rename", told).split())
    said = relight.refuses("fix", "trained.ckpt", "--rename", "head=classifier")
    assert said == "relight: --rename gives tensors the names of a model\nName the model with --target.\n"
    assert sorted(p.name for p in demo.glob("*.fixed*")) == []

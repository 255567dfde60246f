"""Names that the user tells settle what could only be guessed."""

from __future__ import annotations

import pytest

from relight.core.target import ModelSpec, ModuleSpec, ParamSpec
from relight.facts.attribution import attribute
from relight.facts.attribution.told import Untrue, told_pairs
from relight.facts.keys import compare
from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing import write

TWO = {"left.w": (2, 2), "right.w": (2, 2), "out.w": (1, 4)}


def given(folder, saved, wanted, *renames):
    params = tuple(ParamSpec(k, "float32", s, "parameter", True, (), "strided") for k, s in wanted.items())
    paths = dict.fromkeys(k[:i] for k in wanted for i, c in enumerate(k) if c == ".")
    modules = tuple(ModuleSpec(path, "torch.nn.modules.module.Module") for path in ("", *paths))
    spec = ModelSpec(class_name="M", class_path="m:M", params=params, modules=modules)
    checkpoint = open_checkpoint(write(File(tensors=saved), folder / "model.ckpt"))
    return checkpoint, spec, told_pairs(renames, checkpoint, spec)


def explained(folder, saved, wanted, *renames):
    checkpoint, spec, names = given(folder, saved, wanted, *renames)
    return attribute(compare(checkpoint, spec), checkpoint, spec, names).explanations


def test_what_was_told_is_certain_and_what_is_left_over_follows(tmp_path):
    now = {"b1.w": (2, 2), "b2.w": (2, 2), "out.w": (1, 4)}
    found = explained(tmp_path, TWO, now, ("left", "b2"))
    assert [(e.pairs, e.certain) for e in found] == [
        ((("left.w", "b2.w"),), True),
        ((("right.w", "b1.w"),), True),  # nothing else is left
    ]


def test_layers_that_move_on_and_leave_a_place(tmp_path):
    before = {"net.0.w": (3, 3), "net.2.w": (3, 3), "net.4.w": (1, 3)}
    now = {"net.0.w": (3, 3), "net.2.w": (3, 3), "net.4.w": (3, 3), "net.6.w": (1, 3)}
    found = explained(tmp_path, before, now, ("net.2", "net.4"), ("net.4", "net.6"))
    assert [(e.kind, e.pairs, e.missing) for e in found] == [
        ("renamed", (("net.2.w", "net.4.w"),), ()),
        ("renamed", (("net.4.w", "net.6.w"),), ("net.6.w",)),
        ("added", (), ("net.2.w",)),
    ]


def test_names_that_fit_can_be_told_to_be_others(tmp_path):
    found = explained(tmp_path, TWO, TWO, ("left", "right"), ("right", "left"))
    assert [e.pairs for e in found] == [(("left.w", "right.w"),), (("right.w", "left.w"),)]


def test_the_longer_name_is_the_one_that_is_meant(tmp_path):
    before = {"enc.proj.w": (2, 2), "enc.w": (3,)}
    now = {"head.w": (2, 2), "body.w": (3,)}
    *_, names = given(tmp_path, before, now, ("enc", "body"), ("enc.proj", "head"))
    assert names == {("enc", "body"): [("enc.w", "body.w")], ("enc.proj", "head"): [("enc.proj.w", "head.w")]}


@pytest.mark.parametrize(
    ("renames", "said"),
    [
        ([("lef", "b1")], "the checkpoint has no lef; did you mean left?"),
        ([("left", "branch_3")], r"the model has no branch_3.w; did you mean branch_\d?"),
        ([("left", "out")], r"left.w is \[2, 2\], out.w is \[1, 4\]"),
        ([("left", "b1"), ("right", "b1")], "right.w would be b1.w, and left.w gets that name already"),
        ([("left", "right")], "left.w would be right.w, and the checkpoint has one already: say where it belongs"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, renames, said):
    now = {"b1.w": (2, 2), "branch_2.w": (2, 2), "right.w": (2, 2), "out.w": (1, 4)}
    with pytest.raises(Untrue, match=said):
        given(tmp_path, TWO, now, *renames)

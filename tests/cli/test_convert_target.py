"""A plain state_dict becomes a checkpoint of Lightning for a target, and a checkpoint of Lightning a plain state_dict."""

from __future__ import annotations

import os

from inline_snapshot import snapshot

from relight.core.objects import mapping_get
from relight.reader import open_checkpoint


def test_there_and_back(relight, demo):
    relight.says("convert", "trained.ckpt", "w.pt", "--only", "weights")
    arguments = ("--target", "trained.spec.json", "--init", "width=8", "--init", "name=a")
    assert relight.says("convert", "w.pt", "model.ckpt", *arguments) == snapshot("""\
model.ckpt: written, 6 tensors, 3,124 bytes, proved
  state_dict  -> a checkpoint of Lightning 2.6.6, at epoch 0 and step 0
  Read again: nothing is wrong with it; 6 storages equal, byte by byte; it names
  nothing dangerous; by its description, it loads into the target.
""")
    root = open_checkpoint("model.ckpt").root
    assert (mapping_get(root, "epoch"), mapping_get(root, "global_step")) == (0, 0)
    assert mapping_get(mapping_get(root, "hyper_parameters"), "width") == 8
    assert "6 bit-equal" in relight.finds("diff", "trained.ckpt", "model.ckpt", "--values")


def test_names_of_the_target(relight, demo):
    relight.says("convert", "trained.ckpt", "w.pt", "--only", "weights")
    out = relight.says("convert", "w.pt", "model.ckpt", "--target", "renamed.spec.json")
    assert "head -> classifier (2 tensors)" in " ".join(out.split())
    assert relight.says("check", "model.ckpt", "--target", "renamed.spec.json").startswith("model.ckpt: loads")


def test_what_does_not_fit_is_not_written(relight, demo):
    relight.says("convert", "trained.ckpt", "w.pt", "--only", "weights")
    before = sorted(os.listdir())
    assert relight.refuses("convert", "w.pt", "model.ckpt", "--target", "grown.spec.json") == (
        "relight: cannot convert w.pt: nothing is written, it would not load into the target: the model has a layer that "
        "the checkpoint lacks; nothing is done to it unasked; relight fix --target does by name: new-layers\n"
    )
    assert relight.refuses("convert", "trained.ckpt", "x.ckpt", "--target", "trained.spec.json", "--init", "a=1") == (
        "relight: cannot convert trained.ckpt: it has hyper_parameters already: it is a checkpoint of Lightning\n"
    )
    assert relight.refuses("convert", "w.pt", "x.safetensors", "--target", "trained.spec.json", "--to", "safetensors")
    assert relight.refuses("convert", "w.pt", "x.ckpt", "--init", "a=1")
    assert sorted(os.listdir()) == before

"""``relight convert``: what is said, and what is written."""

from __future__ import annotations

import os

from inline_snapshot import snapshot


def test_to_safetensors_and_back(relight, demo):
    assert relight.says("convert", "trained.ckpt", "w.safetensors") == snapshot("""\
w.safetensors: written, 6 tensors, 1,004 bytes, proved
  layout              an archive of torch.save -> safetensors
  w.rest.json         what is no weight, 11,231 bytes
  w.rest.safetensors  tensors that are no weights, 2,864 bytes
  Read again: 6 tensors of w.safetensors equal, value by value; w.rest.json says
  what it should; 18 tensors of w.rest.safetensors equal, value by value.
""")
    assert relight.says("convert", "w.safetensors", "again.ckpt") == snapshot("""\
again.ckpt: written, 6 tensors, 9,814 bytes, proved
  layout  safetensors -> an archive of torch.save
  Read again: nothing is wrong with it; 24 storages equal, byte by byte; it
  names nothing dangerous.
""")
    assert relight.says("diff", "trained.ckpt", "again.ckpt", "--values") == snapshot("""\
trained.ckpt -> again.ckpt: no difference
  6 tensors with the same name, shape, dtype and device; 6 bit-equal
""")


def test_weights_alone(relight, demo):
    before = set(os.listdir())
    assert relight.says("convert", "injected.ckpt", "w.safetensors", "--no-rest") == snapshot("""\
w.safetensors: written, 4 tensors, 516 bytes, proved
  layout  an archive of torch.save -> safetensors
  Read again: 4 tensors of w.safetensors equal, value by value.

Not in it:
  epoch, global_step, pytorch-lightning_version, loops, callbacks, optimizer_states, lr_schedulers, hparams_name, hyper_parameters
      not asked for
""")
    assert set(os.listdir()) - before == {"w.safetensors"}
    assert relight.says("convert", "trained.ckpt", "w.pt", "--only", "weights", "-q") == snapshot(
        "w.pt: written, 6 tensors, 2,828 bytes, proved\n"
    )


def test_an_old_layout(relight, demo):
    assert relight.says("convert", "classic.ckpt", "new.ckpt") == snapshot("""\
new.ckpt: written, 6 tensors, 10,312 bytes, proved
  layout  the layout of torch before 1.6 -> an archive of torch.save
  Read again: nothing is wrong with it; 18 storages equal, byte by byte; it
  names nothing dangerous.
""")


def test_what_cannot_be_converted(relight, demo):
    there = relight.refuses("convert", "trained.ckpt", "classic.ckpt")
    assert there == "relight: cannot convert trained.ckpt: classic.ckpt is there already, and is not written over\n"
    cut = relight.refuses("convert", "download.ckpt", "w.safetensors")
    assert cut.startswith(
        "relight: cannot convert download.ckpt: nothing is written, it is not whole: the archive has no"
    )
    assert relight.refuses("convert", "no.ckpt", "w.safetensors") == snapshot(
        "relight: cannot read no.ckpt: there is no such file; this folder has download.ckpt, gpu.ckpt, trained.ckpt\n"
    )
    assert relight.refuses("convert", "https://example.org/x.ckpt", "w.safetensors") == snapshot("""\
relight: convert reads every byte, and does not fetch them
Download the file first.
""")
    assert relight.refuses("convert", "models.py", "w.safetensors") == snapshot(
        "relight: cannot convert models.py: the file is text, by its first bytes\n"
    )


def test_salvage(relight, demo):
    assert relight.finds("convert", "download.ckpt", "part.ckpt", "--salvage") == snapshot("""\
part.ckpt: written, 6 tensors, 4,394 bytes, proved
  damage  the archive has no end record in its 6,237 bytes: it was cut off; 13
          of 24 storages are whole, and with them 6 of 6 tensors
  Read again: nothing is wrong with it; 6 storages equal, byte by byte; it names
  nothing dangerous.

Not in it:
  optimizer_states  a tensor in it: the file ends before the end of its storage
""")
    assert relight.says("convert", "trained.ckpt", "whole.ckpt", "--salvage", "-q") == snapshot(
        "whole.ckpt: written, 6 tensors, 9,814 bytes, proved\n"
    )

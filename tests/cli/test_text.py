"""What people read, in full: a change of one word shows here. ``pytest tests/cli -n 0 --inline-snapshot=fix`` takes it over."""

# ruff: noqa: E501 (lines are as long as what is printed)

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from relight.cli.app import _COMMANDS
from relight.rulekit import File
from relight.rulekit.registry import all_rules
from relight.testing import write

# ---------------------------------------------------------------- check


def test_check_loads(relight):
    assert relight.says("check", "trained.ckpt", "--target", "trained.spec.json") == snapshot(
        """\
trained.ckpt: loads into Trained (models.py)
  Not visible in this file (no manifest): activations, dropout, forward.
"""
    )


def test_check_renamed(relight):
    assert relight.finds("check", "trained.ckpt", "--target", "renamed.spec.json") == snapshot("""\
trained.ckpt: will not load into Renamed (models.py)

error: head in the checkpoint is classifier in the model        [renamed-module]
  head -> classifier  2 tensors                                     models.py:33
  strict=False would leave them at random values.
  load_from_checkpoint raises RuntimeError: Missing key(s) in state_dict:
  "classifier.weight", "classifier.bias". Unexpected key(s) in state_dict:
  "head.weight", "head.bias".

  Rename the keys in a copy; no tensor changes:
    relight fix trained.ckpt --target renamed.spec.json -o trained.fixed.ckpt
""")


def test_check_grown(relight):
    assert relight.finds("check", "trained.ckpt", "--target", "grown.spec.json") == snapshot("""\
trained.ckpt: will not load into Grown (models.py)

error: the model has a layer that the checkpoint lacks             [layer-added]
  attention  nn.Linear(in_features=8, out_features=8), 2 tensors    models.py:41
  Everything else fits: 6 of 6 tensors, same names, same shapes.
  load_from_checkpoint raises RuntimeError: Missing key(s) in state_dict:
  "attention.weight", "attention.bias".

  attention is new, you will train it (it starts with random values):
    Grown.load_from_checkpoint("trained.ckpt", strict=False)
    Here strict=False hides nothing else. Then start a new fit; resuming
    (ckpt_path=) fails if the optimizer gets attention: its state covers 6
    tensors.

  Or put first values into a copy, as such layers of torch begin, for a strict
  load:
    relight fix trained.ckpt --target grown.spec.json -o trained.fixed.ckpt --allow new-layers
    Drawn as such layers draw theirs, the same each time; values that the
    model's own code sets are not known.

  attention is a mistake, or you want the model as it was trained: remove line
  41 of models.py.
""")


def test_check_classic(relight):
    assert relight.finds("check", "classic.ckpt", "--target", "classic.spec.json") == snapshot("""\
classic.ckpt: will not load into Classic (models.py)

error: the file is from before Lightning 0.8 and states   [no-lightning-version]
       no version
  Its contents are in the old layout, which Lightning still reads once the
  version is there.
  load_from_checkpoint raises KeyError: 'pytorch-lightning_version'

  Add the version in a copy; nothing else changes:
    relight fix classic.ckpt --target classic.spec.json -o classic.fixed.ckpt
""")


def test_check_injected(relight):
    assert relight.finds("check", "injected.ckpt", "--target", "injected.spec.json") == snapshot("""\
injected.ckpt: will not load into Injected (models.py)

error: the file needs my_custom_module, which is not here     [module-not-found]
  hyper_parameters.layer  is a my_custom_module.MyCustomLayer (1 value:
                          training)
  Neither remedy that torch suggests can help: both need the module.
  The weights do not: 4 tensors, readable now.
  load_from_checkpoint raises _pickle.UnpicklingError: Unsupported global:
  GLOBAL my_custom_module.MyCustomLayer was not an allowed global by default.

  You have the source: put it on the path and try again:
    PYTHONPATH=path/to/source relight check injected.ckpt --target injected.spec.json

  You do not have the source: write a copy without the object, and pass one
  yourself:
    relight fix injected.ckpt --target injected.spec.json -o injected.fixed.ckpt --allow drop-object
    Left out: hyper_parameters.layer.

  Or load only the weights, with empty classes in place of what is not here:
    import sys, types
    import torch
    class StandIn(dict):
        def __init__(self, *args, **kwargs): pass
    for module, name in [("my_custom_module", "MyCustomLayer")]:
        parts = module.split(".")
        for i in range(len(parts)):
            sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
        setattr(sys.modules[module], name, StandIn)
    ckpt = torch.load("injected.ckpt", map_location="cpu", weights_only=False)  # unpickles everything in the file: for one that you trust
    model = Injected()  # with the arguments of the training
    model.load_state_dict(ckpt["state_dict"])
""")


def test_check_download(relight):
    assert relight.finds("check", "download.ckpt", "--target", "trained.spec.json") == snapshot("""\
download.ckpt: will not load into Trained (models.py)

error: the file breaks off after 6,237 bytes; its end is        [truncated-file]
       missing
  Names and shapes of 6 tensors can still be read, and all of their values.
  relight convert --salvage writes what is whole.
  weights_only=False cannot help: there is nothing more to read.
  load_from_checkpoint raises OSError: [Errno 22] Invalid argument

  Copy or download the file again, and compare its size with the original.
  If your own run wrote it: wait while the run goes on, else take an earlier
  checkpoint.
""")


def test_check_gpu_weights(relight):
    assert relight.finds("check", "gpu.ckpt", "--target", "trained.spec.json", "--for", "weights") == snapshot("""\
gpu.ckpt: will not load into Trained (models.py)

error: 18 tensors are on cuda:0, this machine has no GPU         [device-absent]
  cuda:0  18 tensors
  cpu     6 tensors
  torch.load raises RuntimeError: Attempting to deserialize object on a CUDA
  device but torch.cuda.is_available() is False.

  Load them to the CPU:
    torch.load("gpu.ckpt", map_location="cpu")

  For programs that you cannot change, a copy that says "cpu":
    relight fix gpu.ckpt --target trained.spec.json --for weights -o gpu.fixed.ckpt
""")


def test_check_gpu_load(relight):
    assert relight.says("check", "gpu.ckpt", "--target", "trained.spec.json") == snapshot("""\
gpu.ckpt: loads into Trained (models.py)
  Saved on GPU 0; no GPU here. load_from_checkpoint moves it to the CPU itself.
  Memory: 556 B of weights; 2 KB with the optimizer's state (resume only).
  Not visible in this file (no manifest): activations, dropout, forward.
""")


def test_check_resume(relight):
    assert relight.says("check", "trained.ckpt", "--target", "trained.spec.json", "--for", "resume") == snapshot("""\
trained.ckpt: may resume into Trained (models.py); not everything could be checked
  Not known: the optimizers are not compared: this answer is about weights,
  epoch and step.
  Not visible in this file (no manifest): activations, dropout, forward.
""")


def test_check_resume_at_a_glance(relight):
    assert relight.finds(
        "check", "trained.ckpt", "--target", "grown.spec.json", "--for", "resume", "--no-strict"
    ) == snapshot("""\
trained.ckpt: resumes WITHOUT AN ERROR, BUT WRONG, into Grown (models.py)
  The optimizer's state is for 6 parameters in 1 group, the model has 8: it
  resumes only if configure_optimizers gives it as many.
  Not visible in this file (no manifest): activations, dropout, forward.

warning: the model has a layer that the checkpoint lacks: not      [layer-added]
         strict, it stays at random values
  attention  nn.Linear(in_features=8, out_features=8), 2 tensors    models.py:41
  Everything else fits: 6 of 6 tensors, same names, same shapes.
""")


def test_check_not_strict(relight):
    assert relight.finds("check", "trained.ckpt", "--target", "grown.spec.json", "--no-strict") == snapshot("""\
trained.ckpt: loads WITHOUT AN ERROR, BUT WRONG, into Grown (models.py)
  Not visible in this file (no manifest): activations, dropout, forward.

warning: the model has a layer that the checkpoint lacks: not      [layer-added]
         strict, it stays at random values
  attention  nn.Linear(in_features=8, out_features=8), 2 tensors    models.py:41
  Everything else fits: 6 of 6 tensors, same names, same shapes.
""")


def test_check_other_versions(relight):
    out = relight.finds("check", "injected.ckpt", "--target", "injected.spec.json", "--no-weights-only")
    assert out == snapshot("""\
injected.ckpt: will not load into Injected (models.py)

error: the file needs my_custom_module, which is not here     [module-not-found]
  hyper_parameters.layer  is a my_custom_module.MyCustomLayer (1 value:
                          training)
  The weights do not: 4 tensors, readable now.
  load_from_checkpoint raises ModuleNotFoundError: No module named
  'my_custom_module'

  You have the source: put it on the path and try again:
    PYTHONPATH=path/to/source relight check injected.ckpt --target injected.spec.json

  You do not have the source: write a copy without the object, and pass one
  yourself:
    relight fix injected.ckpt --target injected.spec.json --no-weights-only -o injected.fixed.ckpt --allow drop-object
    Left out: hyper_parameters.layer.

  Or load only the weights, with empty classes in place of what is not here:
    import sys, types
    import torch
    class StandIn(dict):
        def __init__(self, *args, **kwargs): pass
    for module, name in [("my_custom_module", "MyCustomLayer")]:
        parts = module.split(".")
        for i in range(len(parts)):
            sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
        setattr(sys.modules[module], name, StandIn)
    ckpt = torch.load("injected.ckpt", map_location="cpu", weights_only=False)  # unpickles everything in the file: for one that you trust
    model = Injected()  # with the arguments of the training
    model.load_state_dict(ckpt["state_dict"])
""")


def test_check_quiet(relight):
    out = relight.finds("check", "trained.ckpt", "--target", "grown.spec.json", "-q")
    assert out == snapshot("trained.ckpt: will not load into Grown (models.py)\n")


def test_check_ignored(relight):
    out = relight.says("check", "trained.ckpt", "--target", "grown.spec.json", "--ignore", "layer-added", "-v")
    assert out == snapshot("""\
trained.ckpt: will not load into Grown (models.py); layer-added: ignored

Not shown:
  error: the model has a layer that the checkpoint lacks           [layer-added]
    ignored: --ignore

Not asked:
  RL906, RL901, RL902, RL903, RL904, RL905, RL907, RL909, RL910, RL911, RL908:
  the file has no manifest
""")


def test_check_verbose(relight):
    out = relight.finds("check", "download.ckpt", "-v")
    assert out.splitlines()[0] == snapshot("download.ckpt: will not load")
    assert "Not asked:" in out
    assert "because RL102" in " ".join(out.split())


def test_check_markdown(relight):
    out = relight.finds("check", "trained.ckpt", "--target", "grown.spec.json", "--format", "markdown")
    assert out == snapshot("""\
**`trained.ckpt`: will not load into Grown (models.py)**

### error: the model has a layer that the checkpoint lacks `[layer-added]`

- `attention` nn.Linear(in\\_features=8, out\\_features=8), 2 tensors (models.py:41)

Everything else fits: 6 of 6 tensors, same names, same shapes.

`load_from_checkpoint` raises `RuntimeError`: `Error(s) in loading state_dict for Grown: Missing key(s) in state_dict: "attention.weight", "attention.bias".`

attention is new, you will train it (it starts with random values):

```python
Grown.load_from_checkpoint("trained.ckpt", strict=False)
```

Here strict=False hides nothing else. Then start a new fit; resuming (ckpt\\_path=) fails if the optimizer gets attention: its state covers 6 tensors.

Or put first values into a copy, as such layers of torch begin, for a strict load:

```console
relight fix trained.ckpt --target grown.spec.json -o trained.fixed.ckpt --allow new-layers
```

Drawn as such layers draw theirs, the same each time; values that the model's own code sets are not known.

attention is a mistake, or you want the model as it was trained: remove line 41 of models.py.

<sub>relight check --for load; python 3.11.7, torch 2.13.0+cpu, lightning 2.6.6</sub>
""")


def test_check_markdown_loads(relight):
    out = relight.says("check", "trained.ckpt", "--target", "trained.spec.json", "--format", "markdown")
    assert out == snapshot("""\
**`trained.ckpt`: loads into Trained (models.py)**

Not visible in this file (no manifest): activations, dropout, forward.

<sub>relight check --for load; python 3.11.7, torch 2.13.0+cpu, lightning 2.6.6</sub>
""")


def test_check_without_a_target(relight):
    """The only LightningModules in the folder are offered, in commands that work."""
    out = relight.says("check", "trained.ckpt", "--env", "torch==2.13.0", "--env", "lightning==2.6.6")
    assert out == snapshot("""\
trained.ckpt: the file is sound. Not compared with a model yet.
  Lightning 2.6.6, epoch 2, step 8; 6 tensors, 139 values; Adam state.
  To compare it with a LightningModule in this folder:
    relight check trained.ckpt --target models.py:Trained
    relight check trained.ckpt --target models.py:Grown
    relight check trained.ckpt --target models.py:Renamed
    relight check trained.ckpt --target models.py:Classic
    relight check trained.ckpt --target models.py:Injected
  Or all of models.py, ranked by what fits:
    relight check trained.ckpt --target 'models.py:*'
""")


def test_check_wider(relight, monkeypatch):
    """Text follows the width of the terminal; commands and code do not."""
    monkeypatch.setenv("COLUMNS", "60")
    out = relight.finds("check", "trained.ckpt", "--target", "renamed.spec.json")
    code = [line for line in out.splitlines() if line.startswith("    ")]
    assert max(len(line) for line in out.splitlines() if line not in code) <= 60
    assert any(len(line) > 60 for line in code)


# ---------------------------------------------------------------- inspect


def test_inspect(relight):
    assert relight.says("inspect", "trained.ckpt") == snapshot("""\
trained.ckpt: Lightning 2.6.6 checkpoint, epoch 2, step 8
  torch zip, 10.4 KB; written by torch 2.7 or newer, python 3.10 or newer

hyper_parameters  2
  width    8
  classes  3

state_dict  6 tensors, 139 values, 556 B, float32, cpu
  body
    0   weight [8, 4]  bias [8]
    2   weight [8, 8]  bias [8]
  head  weight [3, 8]  bias [3]

training
  optimizer  Adam-like, state of 6 parameters
  loops      fit_loop, validate_loop, test_loop, predict_loop

names in the pickle  3, all known to be harmless
""")


def test_inspect_tree(relight):
    assert relight.says("inspect", "trained.ckpt", "--tree") == snapshot("""\
body
  0   weight [8, 4]  bias [8]
  2   weight [8, 8]  bias [8]
head  weight [3, 8]  bias [3]
""")


def test_inspect_keys(relight):
    assert relight.says("inspect", "trained.ckpt", "--keys", "*.bias") == snapshot("""\
body.0.bias  [8] float32
body.2.bias  [8] float32
head.bias    [3] float32
""")


def test_inspect_tensor(relight):
    key = next(
        line.split()[0]
        for line in relight.says("inspect", "trained.ckpt", "--keys", "*.bias").splitlines()[1:]
        if ".bias" in line
    )
    assert relight.says("inspect", "trained.ckpt", "--tensor", key) == snapshot("""\
body.2.bias: [8] float32
  storage 3, offset 0, stride [1], cpu
  min -0.29812   max 0.337819   mean 0.0655128   std 0.215797
  8 values, 0 zero, 0 NaN, 0 Inf
  first: -0.23288  -0.29812  0.33782  0.018461  0.2436  0.074421  0.11317  0.26762
""")


def test_inspect_classic(relight):
    assert relight.says("inspect", "classic.ckpt") == snapshot("""\
classic.ckpt: a checkpoint of Lightning before 0.8.0, epoch 2, step 9
  torch legacy (stacked pickles), 8.0 KB; written by torch 0.1.10 or newer but
  before 1.6, python 3.0 or newer

hyper_parameters  4
  in_dim   8
  hidden   16
  out_dim  1
  lr       0.001

state_dict  6 tensors, 433 values, 1.7 KB, float32, cpu
  net
    0  weight [16, 8]  bias [16]
    2  weight [16, 16]  bias [16]
    4  weight [1, 16]  bias [1]

training
  optimizer  Adam-like, state of 6 parameters
  also       hparams

names in the pickle  3, all known to be harmless
""")


def test_inspect_unknown_class(relight):
    assert relight.says("inspect", "injected.ckpt") == snapshot("""\
injected.ckpt: Lightning 2.6.6 checkpoint, epoch 2, step 8
  torch zip, 5.3 KB; written by torch 2.7 or newer, python 3.10 or newer

hyper_parameters  2
  layer  my_custom_module.MyCustomLayer(training=True)
  width  8

state_dict  4 tensors, 49 values, 196 B, float32, cpu
  layer.proj  weight [8, 4]  bias [8]
  out         weight [1, 8]  bias [1]

training
  optimizer  state of 0 parameters
  loops      fit_loop, validate_loop, test_loop, predict_loop

names in the pickle  7, not all of them known
  unknown    my_custom_module.MyCustomLayer, torch.nn.modules.linear.Linear
""")


def test_inspect_truncated(relight):
    assert relight.says("inspect", "download.ckpt") == snapshot("""\
download.ckpt: Lightning 2.6.6 checkpoint, epoch 2, step 8
  torch zip, 6.2 KB; written by torch 2.7 or newer, python 3.10 or newer
  damaged: the archive has no end record in its 6,237 bytes: it was cut off; 13
  of 24 storages are whole, and with them 6 of 6 tensors

hyper_parameters  2
  width    8
  classes  3

state_dict  6 tensors, 139 values, 556 B, float32, cpu
  body
    0   weight [8, 4]  bias [8]
    2   weight [8, 8]  bias [8]
  head  weight [3, 8]  bias [3]

training
  optimizer  Adam-like, state of 6 parameters
  loops      fit_loop, validate_loop, test_loop, predict_loop

names in the pickle  3, the file is damaged: nothing can be vouched for
""")


def test_inspect_web_page(relight, demo):
    (demo / "page.ckpt").write_bytes(b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n")
    assert relight.says("inspect", "page.ckpt") == snapshot("""\
page.ckpt: not readable (html)
  not a checkpoint, 65 B
  note: the file is html, by its first bytes
""")


def test_inspect_empty(relight, demo):
    (demo / "empty.ckpt").write_bytes(b"")
    assert relight.says("inspect", "empty.ckpt") == snapshot("""\
empty.ckpt: not readable
  not a checkpoint, 0 B
  damaged: the file has no bytes
""")


# ---------------------------------------------------------------- the others


def test_explain(relight):
    assert relight.says("explain", "layer-added") == snapshot("""\
RL303 layer-added

The model has layers that the checkpoint lacks.

What it checks
--------------
Keys of the model that the file has not, after every other reading (a wrapper, a rename, tied weights, buffers of
a library) was tried. They are grouped by the topmost module of which the file has nothing.

Why loading fails
-----------------
``load_state_dict(strict=True)`` wants every key: ``Missing key(s) in state_dict``.

How to fix
----------
If the layer is new, load with ``strict=False`` and train it: it starts with random values. What else
``strict=False`` would hide is said beside it. If it is a mistake, take the layer out of the code.

References
----------
torch/nn/modules/module.py, ``Module.load_state_dict``.

Fires on
--------
- one layer
- layers of torch: first values can be put into a copy
- a bias on an old layer
- one more of several equal blocks: which one is open
- not strict: loads, at random values
- the class itself is not strict: a note

Stays silent on
---------------
- the same layers
- as many equal blocks
- the layer is there, under another name
- one layer less in the model
- a lazy layer that takes its shape from the file

Causes: layer-added. Since 0.1.0.
""")


def test_explain_by_code(relight):
    assert relight.says("explain", "rl303") == relight.says("explain", "layer-added")


def test_rules(relight):
    lines = relight.says("rules").splitlines()
    assert [line.split()[:2] for line in lines] == [[r.code, r.name] for r in all_rules()]
    assert all(line.endswith(r.title()) for line, r in zip(lines, all_rules(), strict=True))


def test_diff(relight):
    assert relight.finds("diff", "trained.ckpt", "gpu.ckpt") == snapshot("""\
trained.ckpt -> gpu.ckpt: different
  no tensor with the same name, shape, dtype and device

changed: 6 tensors
  body.0.weight  [8, 4] float32 -> [8, 4] float32 on cuda:0
  body.0.bias    [8] float32 -> [8] float32 on cuda:0
  body.2.weight  [8, 8] float32 -> [8, 8] float32 on cuda:0
  body.2.bias    [8] float32 -> [8] float32 on cuda:0
  head.weight    [3, 8] float32 -> [3, 8] float32 on cuda:0
  head.bias      [3] float32 -> [3] float32 on cuda:0
""")


def test_diff_with_itself(relight):
    assert relight.says("diff", "trained.ckpt", "trained.ckpt", "--values") == snapshot("""\
trained.ckpt -> trained.ckpt: no difference
  6 tensors with the same name, shape, dtype and device; 6 bit-equal
""")


def test_verify(relight):
    assert relight.says("verify", "trained.ckpt") == snapshot("""\
trained.ckpt: whole
  5.3 KB read; 30 of 30 records have a checksum, and it was compared
""")


def test_verify_damaged(relight, demo):
    data = bytearray((demo / "trained.ckpt").read_bytes())
    from relight.reader import open_checkpoint

    first = next(iter(open_checkpoint(demo / "trained.ckpt").storages.values()))
    data[first.span.start] ^= 1
    (demo / "flipped.ckpt").write_bytes(data)
    assert relight.finds("verify", "flipped.ckpt") == snapshot("""\
flipped.ckpt: NOT whole
  5.3 KB read; 30 of 30 records have a checksum, and it was compared
  damaged: data/0: the checksum of the record is wrong: bytes have changed
""")


# ---------------------------------------------------------------- help


def test_help(relight):
    assert relight.says("--help") == snapshot("""\
Usage: relight [OPTIONS] COMMAND [ARGS]...

  The PyTorch checkpoint doctor.

  Will a checkpoint load, into this model, here, and if not, how do I make it?

    relight model.ckpt
    relight check model.ckpt --target models.py:MyModel
    relight inspect model.ckpt

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
  check    Will it load, into this model, here? If not: why, and what to do.
  fix      Write a corrected copy, and prove that it is one.
  inspect  What is inside a checkpoint, read without executing it.
  explain  Explain a finding: its page, by name or code.

More:
  run      Run a program; if a checkpoint does not load in it, say why.
  convert  Write it in another layout: safetensors, one file of a folder, ...
  map      Which tensor of a checkpoint belongs where in a model, and by which
           rules.
  diff     What differs between two checkpoints.
  verify   Read every byte once and compare checksums; find NaN and Inf.
  seal     Add a manifest to a copy of a file that has none.
  spec     Describe a model as JSON, to check against without torch.
  rules    List all rules.
  demo     Diagnose the bundled broken checkpoints.

  Nothing in a checkpoint is executed or imported. Your own class is, in a
  child process.
""")


def test_help_check(relight):
    assert relight.says("check", "--help") == snapshot("""\
Usage: relight check [OPTIONS] FILE

  Will FILE load, into this model, here? If not: why, and what to do.

  What is not given here is taken from [tool.relight] of the nearest
  pyproject.toml. Findings that are ignored, not selected or in the baseline
  do not count for the exit status; the first line and the verdict stay what
  they are.

  Exit status: 0 nothing that counts was found, 1 it fails or loads silently
  wrong, 2 the check could not run.

Options:
  --target TARGET                 What it is loaded into:
                                  package.module:Class, file.py:Class,
                                  file.py, a factory, or a spec.json.
                                  file.py:* tries all models there, and so
                                  does giving it more than once: which fits
                                  best?
  --for [load|resume|weights]     load: Class.load_from_checkpoint (the
                                  default); resume: Trainer.fit(ckpt_path=);
                                  weights: torch.load, then load_state_dict.
  --strict / --no-strict          strict= of the call.
  --weights-only / --no-weights-only
                                  weights_only= of the call.
  --map-location DEVICE           map_location= of the call.
  --init NAME=VALUE               Argument that load_from_checkpoint passes to
                                  the constructor; repeatable.
  --hparams-file FILE             hparams_file= of load_from_checkpoint.
  --python PATH                   Interpreter that builds the target and loads
                                  the file.
  --env NAME==VERSION             Check for these versions instead of the
                                  installed ones; repeatable. What is not
                                  named is unknown.
  --prove / --no-prove            Ask the model, with the file's weights, what
                                  it answered when it was saved (needs a
                                  manifest). Unasked where the weights are
                                  small.
  --select RULE[,RULE]            Show the findings of these rules only:
                                  codes, prefixes (RL3) or names; repeatable.
  --ignore RULE=REASON            Accept the findings of a rule; the reason is
                                  kept in the report; repeatable.
  --baseline FILE                 Accept the findings that this file lists;
                                  later ones are shown.
  --write-baseline                Write what is found now to the baseline.
  --isolated                      Read no settings from pyproject.toml.
  --format [text|json|markdown]   Output format.
  -o, --output FILE               Write to a file instead of the terminal.
  --color [auto|always|never]     Colours.
  -v, --verbose                   Also say what was not asked, and why.
  -q, --quiet                     Only the first line.
  --explain                       Also say why, from the page of each rule,
                                  and what settles it.
  --exit-zero                     Exit with 0 also where something is found.
  -h, --help                      Show this message and exit.
""")


def test_help_inspect(relight):
    assert relight.says("inspect", "--help") == snapshot("""\
Usage: relight inspect [OPTIONS] FILE

  What is inside FILE: read without executing or importing anything from it.

  Exit status: 0, also for a damaged file (`relight check` judges); 2 if the
  path cannot be opened.

Options:
  --all                        Every tensor, name and value; nothing folded.
  --tree                       Only the state_dict's tree, in full.
  --keys PATTERN               Only tensors whose key matches: shell
                               wildcards, or a part of the key.
  --tensor KEY                 Statistics of one tensor: its values are read,
                               and nothing else.
  --format [text|json]         Output format.
  -o, --output FILE            Write to a file instead of the terminal.
  --color [auto|always|never]  Colours.
  -h, --help                   Show this message and exit.
""")


def test_help_explain(relight):
    assert relight.says("explain", "--help") == snapshot("""\
Usage: relight explain [OPTIONS] RULE

  The page of RULE, by name (layer-added) or code (RL303).

Options:
  --format [text|json]         Output format.
  -o, --output FILE            Write to a file instead of the terminal.
  --color [auto|always|never]  Colours.
  -h, --help                   Show this message and exit.
""")


def test_help_diff(relight):
    assert relight.says("diff", "--help") == snapshot("""\
Usage: relight diff [OPTIONS] A B

  What differs between two checkpoints: keys, shapes, dtypes,
  hyper_parameters, versions.

  Exit status: 0 nothing differs, 1 something does, 2 a file cannot be opened.

Options:
  --values                     Also compare the values of tensors that both
                               have.
  --all                        Every row.
  --format [text|json]         Output format.
  -o, --output FILE            Write to a file instead of the terminal.
  --color [auto|always|never]  Colours.
  -h, --help                   Show this message and exit.
""")


def test_help_verify(relight):
    assert relight.says("verify", "--help") == snapshot("""\
Usage: relight verify [OPTIONS] FILE

  Read every byte of FILE once and compare its checksums. torch.load does not.

  Exit status: 0 whole, 1 damaged (or NaN and Inf found with --finite), 2 the
  path cannot be opened.

Options:
  --finite                     Also look for NaN and Inf.
  --digest                     Also compute sha256 of every record and of the
                               file.
  --format [text|json]         Output format.
  -o, --output FILE            Write to a file instead of the terminal.
  --color [auto|always|never]  Colours.
  -h, --help                   Show this message and exit.
""")


def test_help_spec(relight):
    assert relight.says("spec", "--help") == snapshot("""\
Usage: relight spec [OPTIONS] TARGET

  Describe TARGET as JSON: what `relight check FILE --target spec.json` needs,
  without torch.

Options:
  --checkpoint FILE    Build it with the hyper_parameters of this file.
  --init NAME=VALUE    Argument that load_from_checkpoint passes to the
                       constructor; repeatable.
  --hparams-file FILE  hparams_file= of load_from_checkpoint.
  --python PATH        Interpreter that builds the target and loads the file.
  -o, --output FILE    Write to a file instead of the terminal.
  -h, --help           Show this message and exit.
""")


def test_help_rules(relight):
    assert relight.says("rules", "--help") == snapshot("""\
Usage: relight rules [OPTIONS]

  List all rules: code, name, and what each finds.

Options:
  --format [text|json]         Output format.
  -o, --output FILE            Write to a file instead of the terminal.
  --color [auto|always|never]  Colours.
  -h, --help                   Show this message and exit.
""")


def test_help_demo(relight):
    assert relight.says("demo", "--help") == snapshot("""\
Usage: relight demo [OPTIONS]

  Diagnose the bundled broken checkpoints: real files, real models. Needs no
  torch.

Options:
  --copy FOLDER                Copy the demo's files to a new folder, to try
                               things on them.
  --color [auto|always|never]  Colours.
  -h, --help                   Show this message and exit.
""")


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help(relight, name):
    out = relight.says(name, "--help")
    assert out.startswith(f"Usage: relight {name} ")
    assert relight.says(name, "-h") == out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_no_arguments(relight):
    answer = relight()
    assert "Usage: relight" in answer.out + answer.err
    assert answer.status in (0, 2)


def test_version(relight):
    from relight.core.version import __version__

    assert relight.says("--version") == f"relight {__version__}\n"


# ---------------------------------------------------------------- what could not run


def test_missing_file(relight):
    assert relight.refuses("check", "nothing.ckpt") == snapshot(
        "relight: cannot read nothing.ckpt: there is no such file; this folder has trained.ckpt, gpu.ckpt, download.ckpt\n"
    )
    assert relight.refuses("inspect", "nothing.ckpt") == snapshot(
        "relight: cannot read nothing.ckpt: there is no such file; this folder has trained.ckpt, gpu.ckpt, download.ckpt\n"
    )
    assert relight.refuses("nothing.ckpt") == snapshot(
        "relight: cannot read nothing.ckpt: there is no such file; this folder has trained.ckpt, gpu.ckpt, download.ckpt\n"
    )


def test_missing_target_file(relight):
    assert relight.refuses("check", "trained.ckpt", "--target", "nothing.py") == snapshot(
        "relight: --target nothing.py: there is no such file or module\n"
    )


def test_a_spec_that_is_none(relight, demo):
    (demo / "x.spec.json").write_text("[]")
    assert relight.refuses("check", "trained.ckpt", "--target", "x.spec.json") == snapshot(
        "relight: x.spec.json is not a model specification (relight/spec/1): not a relight spec: no JSON object\n"
    )


def test_unknown_rule(relight):
    assert relight.refuses("explain", "layer-aded") == snapshot("""\
relight: no rule is called 'layer-aded'
Did you mean layer-added or layer-removed?
""")
    assert relight.refuses("check", "trained.ckpt", "--ignore", "layer-aded") == snapshot("""\
relight: no rule is called 'layer-aded'
Did you mean layer-added or layer-removed?
""")


def test_unknown_intent(relight):
    assert relight.refuses("check", "trained.ckpt", "--for", "fun") == snapshot("""\
Usage: relight check [OPTIONS] FILE
Try 'relight check --help' for help.

Error: Invalid value for '--for': 'fun' is not one of 'load', 'resume', 'weights'.
""")


def test_unknown_option(relight):
    assert relight.refuses("check", "trained.ckpt", "--targt", "x") == snapshot("""\
Usage: relight check [OPTIONS] FILE
Try 'relight check --help' for help.

Error: No such option '--targt'. (Did you mean one of: '--strict', '--target'?)
""")


def test_unknown_tensor(relight):
    assert relight.refuses("inspect", "trained.ckpt", "--tensor", "nothing") == snapshot(
        "relight: trained.ckpt has no tensor 'nothing'\n"
    )


def test_bad_pins_and_arguments(relight):
    assert relight.refuses("check", "trained.ckpt", "--env", "torch") == snapshot("""\
Usage: relight check [OPTIONS] FILE
Try 'relight check --help' for help.

Error: Invalid value for --env: 'torch' is not NAME==VERSION
""")
    assert relight.refuses("check", "trained.ckpt", "--init", "width") == snapshot("""\
Usage: relight check [OPTIONS] FILE
Try 'relight check --help' for help.

Error: Invalid value for --init: 'width' is not NAME=VALUE
""")
    assert relight.refuses("check", "trained.ckpt", "--env", "torch==2.0", "--python", "python3") == snapshot("""\
Usage: relight check [OPTIONS] FILE
Try 'relight check --help' for help.

Error: --env and --python both say where; give one of them
""")


# ---------------------------------------------------------------- odd things


def test_names_that_a_file_chooses_stay_on_their_line(relight, demo):
    write(File(tensors={"a\nb\x1b[31m": (2,)}, hparams={"k" * 90: 1}), demo / "odd.ckpt")
    assert relight.says("inspect", "odd.ckpt") == snapshot("""\
odd.ckpt: Lightning 2.6.6 checkpoint
  torch zip, 910 B; written by torch 2.1 or newer but before 2.7, python 3.10 or
  newer

hyper_parameters  1
  kkkkkkkkkkkkkkkkkkkkkkkk ...  1

state_dict  1 tensor, 2 values, 8 B, float32, cpu
  a\\nb\\x1b[31m  [2]

names in the pickle  3, all known to be harmless
""")
    assert relight.finds("diff", "trained.ckpt", "odd.ckpt") == snapshot("""\
trained.ckpt -> odd.ckpt: different
  no tensor with the same name, shape, dtype and device
  epoch: 2 -> -
  global_step: 8 -> -
  optimizers: ['Adam'] -> -

hyper_parameters
  width                         8 -> -
  classes                       3 -> -
  kkkkkkkkkkkkkkkkkkkkkkkk ...  - -> 1

only in the first: 6 tensors
  - body.0  weight [8, 4]  bias [8]
  - body.2  weight [8, 8]  bias [8]
  - head  weight [3, 8]  bias [3]

only in the second: 1 tensor
  + a\\nb\\x1b[31m [2]
""")


def test_verify_what_is_no_checkpoint(relight, demo):
    (demo / "page.ckpt").write_text("<!doctype html><html></html>")
    assert relight.finds("verify", "page.ckpt") == snapshot("""\
page.ckpt: not a checkpoint, nothing to compare
  the file is html, by its first bytes
""")
    (demo / "nothing").mkdir()
    assert relight.finds("verify", "nothing") == snapshot("""\
nothing: not a checkpoint, nothing to compare
  a folder with 0 files
""")
    (demo / "empty.ckpt").write_bytes(b"")
    assert relight.finds("verify", "empty.ckpt") == snapshot("""\
empty.ckpt: NOT whole
  damaged: the file has no bytes
""")


def test_inspect_and_verify_a_folder(relight, demo):
    write(File(raw=True), demo / "one.pt")
    (demo / "shards").mkdir()
    (demo / "one.pt").rename(demo / "shards" / "one.pt")
    (demo / "shards" / "model.index.json").write_text('{"weight_map": {"net.weight": "one.pt", "net.bias": "one.pt"}}')
    assert relight.says("inspect", "shards") == snapshot("""\
shards: weights
  shards with an index, 1.1 KB
  note: a folder with 2 files

state_dict  2 tensors, 8 values, 32 B, float32, cpu
  net  weight [2, 3]  bias [2]

names in the pickle  3, all known to be harmless
""")
    assert relight.says("verify", "shards") == snapshot("""\
shards: whole
  354 B read; 5 of 5 records have a checksum, and it was compared
  note: a folder with 2 files
""")


def test_tensor_without_values(relight, demo):
    write(File(tensors={"a": (64, 64), "b": (3,)}, keep=0.6), demo / "cut.ckpt")
    assert relight.says("inspect", "cut.ckpt") == snapshot("""\
cut.ckpt: Lightning 2.6.6 checkpoint
  torch zip, 10.4 KB; written by torch 2.1 or newer, python 3.10 or newer
  damaged: the archive has no end record in its 10,450 bytes: it was cut off; 0
  of 2 storages are whole, and with them 0 of 2 tensors

hyper_parameters  none saved

state_dict  2 tensors without values, 4,099 values, 16.4 KB, float32, cpu
  a  [64, 64]
  b  [3]

names in the pickle  3, the file is damaged: nothing can be vouched for
""")
    assert relight.refuses("inspect", "cut.ckpt", "--tensor", "b") == snapshot(
        "relight: the values of b cannot be given out: the file ends before the end of its storage\n"
    )

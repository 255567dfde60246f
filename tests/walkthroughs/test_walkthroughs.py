"""What a user goes through, from the question to the line that works: scripts, commands and pasted code are real."""

from __future__ import annotations

import json
import shlex

import pytest
from user_folder import CUSTOM_MODULE, LAYERS, Folder

pytestmark = pytest.mark.torch

LOAD = (
    LAYERS.format(extra="\n        self.layer3 = nn.Linear(1, 5)")
    + 'model = MyModel.load_from_checkpoint("model.ckpt")\n'
)
SAME = LAYERS.format(extra="")


def test_1_a_version_difference_that_does_not_matter(folder: Folder) -> None:
    """Saved by 1.8.0, loaded by 2.6.6: one line for the answer, one on the versions, no finding."""
    folder.write("mymodel.py", SAME)
    folder.python(
        "import torch\n"
        "c = torch.load('model.ckpt', weights_only=True)\n"
        "c['pytorch-lightning_version'] = '1.8.0'\n"
        "torch.save(c, 'model18.ckpt')"
    )
    answer = folder.relight("check", "model18.ckpt", "--target", "mymodel.py")
    assert answer.status == 0
    assert answer.out.splitlines() == [
        "model18.ckpt: loads into MyModel (mymodel.py)",
        "  Written by Lightning 1.8.0, read by 2.6.6: that makes no difference to a load.",
        "  Not visible in this file (no manifest): activations, dropout, forward.",
    ]
    real = folder.python("from mymodel import MyModel\nMyModel.load_from_checkpoint('model18.ckpt')")
    assert real.status == 0, real.err


def test_2_a_layer_was_added(folder: Folder) -> None:
    folder.write("load.py", LOAD)
    first = folder.relight("check", "model.ckpt")
    assert first.status == 0
    assert first.first == "model.ckpt: the file is sound. Not compared with a model yet."
    assert "Lightning 2.6.6, epoch 10, step 40; 4 tensors, 241 values; Adam state." in first.out
    command = first.code("To compare it with the LightningModule in this folder:")
    assert command == "relight check model.ckpt --target load.py:MyModel"

    answer = folder.shell(command)
    assert answer.status == 1
    assert answer.first == "model.ckpt: will not load into MyModel (load.py)"
    assert "error: the model has a layer that the checkpoint lacks             [layer-added]" in answer.out
    assert "layer3  nn.Linear(in_features=1, out_features=5), 2 tensors          load.py:9" in answer.out
    assert "Everything else fits: 4 of 4 tensors, same names, same shapes." in answer.out
    assert answer.out.endswith("load.py ran only up to line 12, where it would have loaded the checkpoint.\n")

    # Running the script shows the exception that was foretold.
    real = folder.python("import load")
    assert real.status == 1
    assert 'Missing key(s) in state_dict: "layer3.weight", "layer3.bias".' in real.err
    assert 'RuntimeError: Missing key(s) in state_dict:\n  "layer3.weight", "layer3.bias".' in answer.out

    # The pasted line works, and strict=False hides nothing else.
    line = answer.code("layer3 is new").splitlines()[0]
    assert line == 'MyModel.load_from_checkpoint("model.ckpt", strict=False)'
    folder.write("model.py", LOAD.rpartition("model = ")[0])
    pasted = folder.python(
        "import warnings, torch\nfrom model import MyModel\n"
        f"with warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n    m = {line}\n"
        "said = [str(w.message) for w in seen if 'not in the checkpoint' in str(w.message)]\n"
        "assert len(said) == 1 and \"['layer3.weight', 'layer3.bias']\" in said[0], said\n"
        "saved = torch.load('model.ckpt', weights_only=True)['state_dict']\n"
        "assert all(torch.equal(saved[k], m.state_dict()[k]) for k in saved)"
    )
    assert pasted.status == 0, pasted.err


def test_2_a_layer_was_renamed(folder: Folder) -> None:
    folder.write("model.py", SAME.replace("layer2", "head"))
    answer = folder.relight("check", "model.ckpt", "--target", "model.py:MyModel")
    assert answer.status == 1
    assert "[renamed-module]" in answer.out
    assert "layer2 -> head" in answer.out
    assert answer.out.count("error:") == 1

    command = answer.code("Rename the keys in a copy")
    assert command == "relight fix model.ckpt --target model.py:MyModel -o model.fixed.ckpt"
    fixed = folder.relight(*shlex.split(command)[1:])
    assert fixed.status == 0, fixed.err
    assert fixed.first == "model.fixed.ckpt: written, 1 change, proved"
    assert fixed.out.splitlines()[1].split() == ["layer2", "->", "head", "(2", "tensors)"]
    assert fixed.out.endswith("Checked again: no findings. Really loaded, by load_from_checkpoint.\n")
    done = folder.python(
        "import torch\nfrom model import MyModel\n"
        "m = MyModel.load_from_checkpoint('model.fixed.ckpt')\n"
        "saved = torch.load('model.ckpt', weights_only=True)['state_dict']\n"
        "assert torch.equal(saved['layer2.weight'], m.head.weight)"
    )
    assert done.status == 0, done.err
    assert folder.relight("check", "model.fixed.ckpt", "--target", "model.py:MyModel").status == 0


WITH_ARGS = SAME.replace(
    "def __init__(self):\n        super().__init__()",
    "def __init__(self, args):\n        super().__init__()\n        self.save_hyperparameters()",
).replace("nn.Linear(10, 20)", "nn.Linear(10, args.width)")


def test_1_args_saved_as_a_namespace(folder: Folder) -> None:
    """Today's default refuses the file; a copy goes on working, by attribute, and the old file stays."""
    folder.write("nsmodel.py", WITH_ARGS)
    folder.python(
        "import argparse, torch\n"
        "c = torch.load('model.ckpt', weights_only=True)\n"
        "c['hparams_name'] = 'kwargs'\n"
        "c['hyper_parameters'] = {'args': argparse.Namespace(width=20, lr=0.1)}\n"
        "torch.save(c, 'ns.ckpt')"
    )
    answer = folder.relight("check", "ns.ckpt", "--target", "nsmodel.py")
    assert answer.first == "ns.ckpt: will not load into MyModel (nsmodel.py)"
    assert "[not-plain-data]" in answer.out
    command = answer.code("Write a copy of plain data")
    assert command == "relight fix ns.ckpt --target nsmodel.py -o ns.fixed.ckpt"
    fixed = folder.relight(*shlex.split(command)[1:])
    assert fixed.status == 0, fixed.err
    assert fixed.first == "ns.fixed.ckpt: written, 1 change, proved"
    assert "argparse.Namespace -> OrderedDict" in fixed.out
    assert "Really loaded, by load_from_checkpoint." in fixed.out
    real = folder.python(
        "import torch\nfrom nsmodel import MyModel\n"
        "m = MyModel.load_from_checkpoint('ns.fixed.ckpt')\n"
        "a = m.hparams.args\n"
        "assert (a.width, a['width'], vars(a)['lr']) == (20, 20, 0.1)\n"
        "old = torch.load('ns.ckpt', weights_only=False)\n"
        "new = torch.load('ns.fixed.ckpt', weights_only=True)\n"
        "assert all(torch.equal(new['state_dict'][k], v) for k, v in old['state_dict'].items())\n"
        "states = [c['optimizer_states'][0]['state'] for c in (old, new)]\n"
        "assert all(torch.equal(t, states[1][i][n]) for i, s in states[0].items() for n, t in s.items())"
    )
    assert real.status == 0, real.err


def test_3_the_missing_class_is_inside_the_file(folder: Folder) -> None:
    folder.write("lost_module.py", "from torch import nn\nclass Lost(nn.Linear):\n    pass\n")
    made = folder.python(
        "import torch, lost_module\n"
        "c = torch.load('model.ckpt', weights_only=True)\n"
        "c['hyper_parameters'] = {'layer': lost_module.Lost(2, 2), 'width': 20}\n"
        "torch.save(c, 'modelb.ckpt')"
    )
    assert made.status == 0, made.err
    (folder.path / "lost_module.py").unlink()
    folder.write("load.py", SAME)
    answer = folder.relight("check", "modelb.ckpt")
    assert "[module-not-found]" in answer.out
    command = answer.code("You do not have the source: write a copy without the object").splitlines()[0]
    assert command == "relight fix modelb.ckpt -o modelb.fixed.ckpt --allow drop-object"
    fixed = folder.relight(*shlex.split(command)[1:])
    assert fixed.status == 0, fixed.err
    real = folder.python("from load import MyModel\nMyModel.load_from_checkpoint('modelb.fixed.ckpt')")
    assert real.status == 0, real.err


CUSTOM = SAME.replace(
    "self.layer2 = nn.Linear(20, 1)", "self.layer2 = nn.Linear(20, 1)\n        self.custom_layer = MyCustomLayer()"
)
MODULE = """from torch import nn
class MyCustomLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(10, 10)
        self.norm = nn.LayerNorm(10)
"""


def test_3_the_class_is_used_and_never_imported(folder: Folder) -> None:
    folder.write("load.py", CUSTOM)
    folder.write("training/my_custom_module.py", MODULE)
    answer = folder.relight("check", "custom.ckpt", "--target", "load.py:MyModel")
    assert answer.status == 1
    assert answer.first == "custom.ckpt: the file is sound, but MyModel (load.py) cannot be built"
    assert "error: MyCustomLayer is not defined                             [name-not-found]" in answer.out
    assert "load.py:9" in answer.out
    assert "self.custom_layer = MyCustomLayer()" in answer.out
    assert "custom_layer.proj  weight [10, 10]   bias [10]" in answer.out
    assert "custom_layer.norm  weight [10]   bias [10]" in answer.out
    line = answer.code("A class of this name: training/my_custom_module.py:2 (parsed, not run).")
    assert line == "from training.my_custom_module import MyCustomLayer"

    folder.write("load.py", f"{line}\n{CUSTOM}")
    assert folder.relight("check", "custom.ckpt", "--target", "load.py:MyModel").status == 0


def test_3_no_such_class_anywhere(folder: Folder) -> None:
    folder.write("load.py", CUSTOM)
    answer = folder.relight("check", "custom.ckpt", "--target", "load.py:MyModel")
    assert "No class of this name under this folder (1 Python files)." in " ".join(answer.out.split())


def test_3_the_import_fails(folder: Folder) -> None:
    folder.write("load.py", f"from my_custom_module import MyCustomLayer\n{CUSTOM}")
    folder.write("training/my_custom_module.py", MODULE)
    answer = folder.relight("check", "custom.ckpt", "--target", "load.py:MyModel")
    assert answer.status == 1
    assert "[module-not-found]" in answer.out
    assert "load.py:1  from my_custom_module import MyCustomLayer" in answer.out
    command = answer.code("A module of this name: training/my_custom_module.py")
    assert command == "PYTHONPATH=training relight check custom.ckpt --target load.py:MyModel"
    assert folder.shell(command).status == 0


INJECTED = SAME.replace("def __init__(self):", "def __init__(self, layer):").replace(
    "self.layer1", "self.save_hyperparameters()\n        self.layer = layer\n        self.layer1", 1
)


def test_3b_the_missing_class_is_inside_the_file(folder: Folder) -> None:
    """Torch's two remedies cannot work, and the report says so; with the source there is one that does."""
    answer = folder.relight("check", "modelb.ckpt")
    assert answer.status == 1
    assert answer.first == "modelb.ckpt: will not load here"
    assert "error: the file needs my_custom_module, which is not here     [module-not-found]" in answer.out
    assert "hyper_parameters.layer  is a my_custom_module.MyCustomLayer" in answer.out
    assert "Neither remedy that torch suggests can help: both need the module." in answer.out
    assert "The weights do not: 8 tensors, readable now." in answer.out
    quiet = folder.python(
        "import sys\nfrom relight.cli.app import main\n"
        "try:\n    main(['check', 'modelb.ckpt'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    assert quiet.status == 0, quiet.err

    # Both remedies of torch, as torch itself words them.
    folder.write("model.py", INJECTED)
    first = folder.python("from model import MyModel\nMyModel.load_from_checkpoint('modelb.ckpt')")
    assert "add_safe_globals([my_custom_module.MyCustomLayer])" in " ".join(first.err.split())
    assert "weights_only" in first.err
    assert "Unsupported global: GLOBAL my_custom_module.MyCustomLayer" in " ".join(answer.out.split())
    allowed = folder.python("import torch, my_custom_module")
    assert "ModuleNotFoundError: No module named 'my_custom_module'" in allowed.err
    second = folder.python("from model import MyModel\nMyModel.load_from_checkpoint('modelb.ckpt', weights_only=False)")
    assert "ModuleNotFoundError: No module named 'my_custom_module'" in second.err

    # You have the source: on the path, the only thing left is that it is not plain data, and that is said next.
    folder.write("old_code/my_custom_module.py", CUSTOM_MODULE)
    answer = folder.relight("check", "modelb.ckpt", "--target", "model.py:MyModel")
    command = answer.code("A module of this name lies in old_code (seen, not run).")
    assert command == "PYTHONPATH=old_code relight check modelb.ckpt --target model.py:MyModel"
    next_answer = folder.shell(command)
    assert "[not-plain-data]" in next_answer.out
    line = next_answer.code("Or, for a file of your own").splitlines()[0]
    assert line == 'MyModel.load_from_checkpoint("modelb.ckpt", weights_only=False)'
    done = folder.python(f"from model import MyModel\n{line}", PYTHONPATH="old_code")
    assert done.status == 0, done.err


def test_3b_the_source_is_lost(folder: Folder) -> None:
    """The weights come out without the module; a layer of the same shape takes the place of the lost one."""
    folder.write("model.py", INJECTED)
    answer = folder.relight("check", "modelb.ckpt", "--target", "model.py:MyModel")
    assert "You have the source: put it on the path and try again:" in answer.out
    command = answer.code("You do not have the source: write a copy without the object").splitlines()[0]
    assert command == "relight fix modelb.ckpt --target model.py:MyModel -o modelb.fixed.ckpt --allow drop-object"
    assert "written, 1 change, proved" in folder.shell(command).out
    folder.write("rewritten.py", CUSTOM_MODULE)
    passed = folder.python(
        "import torch\nfrom model import MyModel\nfrom rewritten import MyCustomLayer\n"
        "m = MyModel.load_from_checkpoint('modelb.fixed.ckpt', layer=MyCustomLayer())\n"
        "saved = torch.load('modelb.fixed.ckpt', weights_only=True)['state_dict']\n"
        "assert torch.equal(m.layer.proj.weight, saved['layer.proj.weight'])"
    )
    assert passed.status == 0, passed.err

    program = answer.code("Or load only the weights")
    assert "model = MyModel()  # with the arguments of the training" in program
    filled = program.replace("MyModel()", "MyModel(layer=MyCustomLayer())")
    done = folder.python(
        f"from model import MyModel\nfrom rewritten import MyCustomLayer\n{filled}\n"
        "assert torch.equal(model.layer.proj.weight, ckpt['state_dict']['layer.proj.weight'])"
    )
    assert done.status == 0, done.err


NET = """import torch
import pytorch_lightning as pl
from torch import nn


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 16)
        self.act = nn.ReLU()
        self.blocks = nn.ModuleList([nn.Linear(16, 16) for _ in range(6)])
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        x = self.act(self.first(x))
        for block in self.blocks:
            x = self.act(block(x))
        return self.head(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
"""
TRAIN_NET = """import torch
import pytorch_lightning as pl
from models import Net
{imported}
pl.seed_everything(1)
x = torch.randn(256, 2)
data = torch.utils.data.TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
data = torch.utils.data.DataLoader(data, batch_size=64)
trainer = pl.Trainer(max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     enable_model_summary=False, accelerator="cpu", callbacks=[{callback}])
trainer.fit(Net(), data, data)
trainer.save_checkpoint("{path}")
"""


def test_4_an_activation_changed(folder: Folder) -> None:
    folder.write("models.py", NET)
    trained = folder.python(
        TRAIN_NET.format(
            imported="from relight import CheckpointManifest", callback="CheckpointManifest()", path="best.ckpt"
        )
    )
    assert trained.status == 0, trained.err
    command = "relight check best.ckpt --target models.py:Net"
    assert folder.shell(command).out == "best.ckpt: loads into Net (models.py)\n"

    folder.write("models.py", NET.replace("nn.ReLU()", "nn.GELU()"))
    loads = folder.python("from models import Net\nNet.load_from_checkpoint('best.ckpt', strict=True)")
    assert loads.status == 0, loads.err
    answer = folder.shell(command)
    assert answer.status == 1
    assert answer.first == "best.ckpt: loads WITHOUT AN ERROR, BUT WRONG, into Net (models.py)"
    assert answer.out.count("warning:") == 1
    assert "warning: an activation is not the one it was trained with   [activation-changed]" in answer.out
    assert "act  saved with ReLU(), now GELU(approximate='none')              models.py:10" in answer.out
    assert "As it was: 16 tensors, code of" in answer.out
    assert "(64 x 2, seeded):" in answer.out
    assert "of 64 predictions" in answer.out

    pasted = answer.code("To keep what was trained, in models.py line 10:")
    assert pasted == "self.act = nn.ReLU()"
    folder.write("models.py", NET.replace("self.act = nn.ReLU()", pasted))
    assert folder.shell(command).status == 0
    folder.write("models.py", NET.replace("nn.ReLU()", "nn.GELU()"))
    ignored = folder.shell(answer.code("Meant it?"))
    assert ignored.status == 0
    assert "activation-changed: ignored" in ignored.out


def test_4_without_a_manifest(folder: Folder) -> None:
    folder.write("models.py", NET)
    trained = folder.python(TRAIN_NET.format(imported="", callback="", path="old.ckpt"))
    assert trained.status == 0, trained.err
    folder.write("models.py", NET.replace("nn.ReLU()", "nn.GELU()"))
    answer = folder.relight("check", "old.ckpt", "--target", "models.py:Net")
    assert answer.status == 0
    assert answer.out.splitlines() == [
        "old.ckpt: loads into Net (models.py)",
        "  Not visible in this file (no manifest): activations, dropout, forward.",
    ]
    mine = "-c user.name=me -c user.email=me@example.org"
    folder.shell(f"touch -d '2 days ago' old.ckpt; git init -q . && git add models.py && git {mine} commit -qm gelu")
    answer = folder.relight("check", "old.ckpt", "--target", "models.py:Net")
    assert "models.py has 1 commit since the date of the file; to see it: git log -p" in " ".join(answer.out.split())


def test_5_a_file_from_the_gpu_on_a_machine_without_one(folder: Folder) -> None:
    folder.write("models.py", SAME)
    loads = folder.relight("check", "gpu3.ckpt", "--target", "models.py:MyModel")
    assert loads.status == 0
    assert loads.out.splitlines()[0] == "gpu3.ckpt: loads into MyModel (models.py)"
    assert "Saved on GPU 3; no GPU here. load_from_checkpoint moves it to the CPU itself." in loads.out

    weights = folder.relight("check", "gpu3.ckpt", "--for", "weights")
    assert weights.status == 1
    assert weights.first == "gpu3.ckpt: will not load with a plain torch.load"
    assert "are on cuda:3, this machine has no GPU" in weights.out
    assert "The same holds on a machine with one to 3 GPUs" in " ".join(weights.out.split())
    line = weights.code("Load them to the CPU:")
    assert line == 'torch.load("gpu3.ckpt", map_location="cpu")'

    copy = folder.relight(
        *shlex.split(weights.code('For programs that you cannot change, a copy that says "cpu":'))[1:]
    )
    assert copy.status == 0, copy.err
    assert folder.python("import torch\ntorch.load('gpu3.fixed.ckpt', weights_only=True)").status == 0

    asked = folder.relight("check", "gpu3.ckpt", "--target", "models.py:MyModel", "--map-location", "cuda:3")
    assert asked.status == 1
    assert "[device-absent]" in asked.out

    # All three as the real libraries do it.
    tried = folder.python(
        "import json, torch\nfrom models import MyModel\n"
        "def attempt(f):\n"
        "    try:\n        f()\n        return 'ok'\n"
        "    except Exception as e:\n        return type(e).__name__ + ': ' + str(e)\n"
        "print(json.dumps([attempt(lambda: torch.load('gpu3.ckpt')),\n"
        "    attempt(lambda: MyModel.load_from_checkpoint('gpu3.ckpt')),\n"
        "    attempt(lambda: MyModel.load_from_checkpoint('gpu3.ckpt', map_location='cuda:3')),\n"
        f"    attempt(lambda: {line})]))"
    )
    plain, load, mapped, pasted = json.loads(tried.out.splitlines()[-1])
    assert plain.startswith("RuntimeError: Attempting to deserialize object on a CUDA device")
    assert mapped.startswith("RuntimeError: Attempting to deserialize object on a CUDA device")
    assert load == pasted == "ok"

"""Building real models: one child for all of them, since torch and Lightning take seconds to start."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from textwrap import indent

import pytest
from conftest import Raw, call, checkpoint_of, lightning_file, named, tensor

from relight.core.checkpoint import Checkpoint
from relight.core.target import FailureKind, ModelSpec, Target
from relight.live import capture
from relight.live.capture import TargetRequest, build_target, build_targets

pytestmark = pytest.mark.torch

HEAD = "import torch\nfrom torch import nn\nimport lightning as L\n"


def module(body: str, *, head: str = HEAD, tail: str = "") -> str:
    return head + "class MyModel(L.LightningModule):\n" + indent(body, "    ") + "\n" + tail


LINEAR = """def __init__(self, width=4):
    super().__init__()
    self.net = nn.Linear(3, width)"""

FILES = {
    # Walkthrough 2, eleven lines: the last one loads.
    "load.py": module(
        """def __init__(self):
            super().__init__()
            self.layer1 = nn.Linear(10, 20)
            self.layer2 = nn.Linear(20, 1)

            self.layer3 = nn.Linear(1, 5)""",
        tail='MyModel.load_from_checkpoint("model.ckpt")\nraise SystemError("went on")\n',
    ),
    "swallows.py": module(
        LINEAR,
        tail="try:\n    torch.load('x.ckpt')\nexcept Exception:\n    MyModel = None\n",
    ),
    "trains.py": module(LINEAR, tail="L.Trainer(logger=False, enable_checkpointing=False).fit(MyModel())\n"),
    "cli_script.py": module(
        LINEAR, head=HEAD + "from lightning.pytorch.cli import LightningCLI\n", tail="LightningCLI(MyModel)\n"
    ),
    "exits.py": module(
        LINEAR,
        tail="import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\n"
        "args = parser.parse_args()\n",
    ),
    "ends.py": module("def __init__(self):\n    super().__init__()\n    raise SystemExit(0)"),
    "hparams.yaml": "width: 6\nhidden: 1\n",
    "guarded.py": module(
        "def __init__(self):\n    super().__init__()\n    self.net = nn.Linear(3, WIDTH)",
        tail="if __name__ == '__main__':\n    WIDTH = 4\n    MyModel()\n",
    ),
    "early.py": "import torch\nweights = torch.load('w.pt')\nclass MyModel(torch.nn.Module): pass\n",
    "factory.py": "from torch import nn\ndef build_model(width=4):\n    return nn.Sequential(nn.Linear(3, width))\n"
    "def build_text():\n    return 'no model'\nVERSION = 3\nclass Other: pass\n",
    "two.py": HEAD + "class A(L.LightningModule): pass\nclass B(L.LightningModule): pass\n",
    "uses_two.py": "from two import A\nA.load_from_checkpoint('a.ckpt')\n",
    "nested.py": "from torch import nn\nclass Outer:\n    class Inner(nn.Module):\n        pass\n",
    "no_name.py": module("def __init__(self):\n    super().__init__()\n    self.custom_layer = MyCustomLayer()"),
    "training/my_custom_module.py": "import os\nclass MyCustomLayer:\n    pass\n",
    "no_module.py": "import torch\nimport my_custom_module\n",
    "syntax.py": "import torch\nclass MyModel(:\n",
    "package/__init__.py": "",
    "package/layers.py": "from torch import nn\nclass Layer(nn.Linear): pass\n",
    "package/model.py": "from torch import nn\nfrom .layers import Layer\nclass Net(nn.Module):\n"
    "    def __init__(self):\n        super().__init__()\n        self.first = Layer(2, 2)\n",
    "reads.py": "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        self.load_state_dict(torch.load('pretrained.pt'))\n",
    "needs_network.py": "import urllib.request\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        urllib.request.urlopen('http://192.0.2.1/weights.pt')\n",
    "item.py": module(
        """def __init__(self, n=3):
    super().__init__()
    steps = torch.linspace(0, 1, n).tolist()
    self.net = nn.Linear(3, int(torch.tensor([4]).item()) + (len(steps) - n))"""
    ),
    "configured.py": module(
        """def __init__(self, cfg):
    super().__init__()
    self.net = nn.Linear(3, cfg.hidden)"""
    ),
    "calls_config.py": module(
        """def __init__(self, cfg):
    super().__init__()
    self.net = nn.Linear(3, cfg.total())"""
    ),
    "takes_layer.py": module(
        """def __init__(self, layer, loss=None):
    super().__init__()
    self.layer = layer
    self.loss = loss"""
    ),
    "enums.py": module(
        """def __init__(self, mode):
    super().__init__()
    self.net = nn.Linear(3, 4 if mode is Mode.WIDE else 2)""",
        head=HEAD + "import enum\nclass Mode(enum.Enum):\n    WIDE = 'wide'\n    SMALL = 'small'\n",
    ),
    "namespace.py": module(
        """def __init__(self, args):
    super().__init__()
    self.net = nn.Linear(3, args.width)
    assert args.path.name == "data" and args.rates[float("inf")] == 1.5"""
    ),
    "kwargs.py": module(
        """def __init__(self, width=4, **kwargs):
    super().__init__()
    self.net = nn.Linear(3, width)
    nn.Linear(1, 1, **{k: v for k, v in kwargs.items() if k == "old"})""",
        tail="def trap(text):\n    open('pwned', 'w')\n",
    ),
    "evil.py": "open('pwned', 'w')\nclass Thing: pass\n",
    "dropped.py": module(LINEAR),
    "lazy.py": module("def __init__(self):\n    super().__init__()\n    self.net = nn.LazyLinear(4)"),
    "hooked.py": module(
        """def __init__(self):
    super().__init__()
    self.a = nn.utils.weight_norm(nn.Linear(3, 4))
    self.b, self.c = nn.Linear(4, 4), nn.BatchNorm1d(4)
    self.c2 = nn.ModuleList(
        [
            nn.ReLU(),
            nn.Linear(4, 4),
        ]
    )
    self.b.weight = self.c2[1].weight
    self.register_buffer("mask", torch.zeros(2, dtype=torch.bool), persistent=False)
def _load_from_state_dict(self, *args):
    super()._load_from_state_dict(*args)"""
    ),
    "hook.py": module(
        LINEAR
        + """
def on_load_checkpoint(self, checkpoint):
    if "maybe" in checkpoint:
        checkpoint["maybe"]
    checkpoint["set"] = 1
    checkpoint["set"]
    self.extra = checkpoint["my_extra"]"""
    ),
    "hook_item.py": module(
        LINEAR
        + """
def on_load_checkpoint(self, checkpoint):
    if checkpoint["state_dict"]["net.bias"].sum().item() > 100:
        raise ValueError("too much")"""
    ),
    "lenient.py": module(LINEAR + "\n    self.strict_loading = False\n    self.more = nn.Linear(1, 1)"),
    "late.py": module(
        "def __init__(self):\n    super().__init__()\ndef configure_model(self):\n    self.net = nn.Linear(3, 4)"
    ),
}

GOOD = {"net.weight": tensor(4, 3), "net.bias": tensor(4)}
CONFIG = call("my_custom_module.Config", how="new", state={"hidden": 4, "name": "base"})
LAYER = call("my_custom_module.Layer", how="new", state={"training": True, "_parameters": {}, "_modules": {}})
LOSS = call("torch.nn.modules.loss.MSELoss", how="new", state={"training": True, "_parameters": {}, "_modules": {},
            "_buffers": {}, "reduction": "sum"})  # fmt: skip
ARGS = call("argparse.Namespace", how="new", state={"width": 4, "path": call("pathlib.PosixPath", "/", "data"),
            "rates": {float("inf"): 1.5}})  # fmt: skip
SCALAR = call("numpy._core.multiarray.scalar", call("numpy.dtype", "i8", False, True,
              state=(3, "<", Raw(None), Raw(None), Raw(None), -1, -1, 0)), b"\x04" + bytes(7))  # fmt: skip

# Each of these would leave a file called "pwned" if it were imported or called.
HOSTILE = {
    "width": 4,
    "a": call("os.system", "touch pwned"),
    "b": call("builtins.eval", "open('pwned', 'w')"),
    "c": call("evil.Thing"),
    "d": Raw(named("evil.Thing")),
    "e": call("builtins.open", "pwned", "w"),
    "f": call("pathlib.PosixPath.touch", call("pathlib.PosixPath", "pwned")),
    "g": call("collections.defaultdict", Raw(named("evil.Thing"))),
    "h": call("builtins.getattr", Raw(named("evil")), "Thing"),
    "i": call("torch.load", "pwned"),
    "j": call("builtins.bytearray", 10**13),
    "k": call("builtins.list", call("builtins.range", 10**13)),
    "l": call("kwargs.trap", "called"),
    "m": call(
        "functools.partial", Raw(named("os.system")), state=(Raw(named("os.system")), ("touch pwned",), {}, None)
    ),
}

REQUESTS: dict[str, tuple[str, Checkpoint | None, dict[str, object]]] = {
    "load": ("load.py:MyModel", lightning_file({"layer1.weight": tensor(20, 10), "layer1.bias": tensor(20),
             "layer2.weight": tensor(1, 20), "layer2.bias": tensor(1)}), {}),
    "hostile": ("kwargs.py", lightning_file(GOOD, HOSTILE), {}),
    "load without a name": ("load.py", None, {}),
    "not strict": ("load.py", lightning_file({}), {"strict": False}),
    "swallows": ("swallows.py:MyModel", None, {}),
    "trains": ("trains.py", None, {}),
    "cli script": ("cli_script.py", None, {}),
    "guarded": ("guarded.py", None, {}),
    "exits": ("exits.py:MyModel", None, {}),
    "ends": ("ends.py:MyModel", None, {}),
    "hparams file": ("dropped.py", lightning_file(GOOD), {"hparams_file": "hparams.yaml"}),
    "early": ("early.py:MyModel", None, {}),
    "factory": ("factory:build_model", lightning_file({"0.weight": tensor(6, 3), "0.bias": tensor(6)}, {"width": 6}),
                {"call": "weights"}),
    "factory of text": ("factory:build_text", None, {}),
    "a number": ("factory.py:VERSION", None, {}),
    "a plain class": ("factory.py:Other", None, {}),
    "two": ("two.py", None, {}),
    "uses two": ("uses_two.py", None, {}),
    "nested": ("nested:Outer.Inner", None, {}),
    "wrong case": ("load.py:mymodel", None, {}),
    "close": ("load.py:MyModle", None, {}),
    "elsewhere": ("load.py:MyCustomLayer", None, {}),
    "no such module": ("nowhere.models:Net", None, {}),
    "no name": ("no_name.py:MyModel", None, {}),
    "no module": ("no_module.py:MyModel", None, {}),
    "syntax": ("syntax.py", None, {}),
    "package": ("package/model.py:Net", None, {}),
    "package by name": ("package.model:Net", None, {}),
    "reads": ("reads.py:Net", None, {}),
    "network": ("needs_network.py:Net", None, {}),
    "item": ("item.py", lightning_file(GOOD, {"n": 3}), {}),
    "approximated": ("configured.py", lightning_file(GOOD, {"cfg": CONFIG}), {}),
    "config is called": ("calls_config.py", lightning_file(GOOD, {"cfg": CONFIG}), {}),
    "config is replaced": ("configured.py", lightning_file(GOOD, {"cfg": CONFIG}), {"init": {"cfg": {"hidden": 4}}}),
    "layer": ("takes_layer.py", lightning_file({}, {"layer": LAYER}), {}),
    "layer replaced": ("takes_layer.py", lightning_file({}, {"layer": LAYER}), {"init": {"layer": None}}),
    "loss": ("takes_layer.py", lightning_file({}, {"layer": 1, "loss": LOSS}), {}),
    "enum": ("enums.py", lightning_file(GOOD, {"mode": call("enums.Mode", "wide")}), {}),
    "namespace": ("namespace.py", lightning_file(GOOD, {"args": ARGS}), {}),
    "numpy": ("dropped.py", lightning_file(GOOD, {"width": SCALAR}), {}),
    "omegaconf": ("configured.py", lightning_file(GOOD, {"hidden": 4}, hparams_name="cfg",
                  hparams_type=Raw(named("omegaconf.dictconfig.DictConfig"))), {}),
    "attribute dict": ("configured.py", lightning_file(GOOD, {"hidden": 4}, hparams_name="cfg",
                       hparams_type=Raw(named("lightning.fabric.utilities.data.AttributeDict"))), {}),
    "instantiator": ("dropped.py", lightning_file(GOOD, {"width": 4, "_instantiator": "os.system"}), {}),
    "dropped": ("dropped.py", lightning_file(GOOD, {"width": 4, "hidden": 8}), {}),
    "renamed by init": ("dropped.py", lightning_file(GOOD, {"hidden": 8}), {"init": {"width": 6}}),
    "kwargs": ("kwargs.py", lightning_file(GOOD, {"width": 4, "old": 1}), {}),
    "lazy": ("lazy.py", lightning_file(GOOD), {}),
    "hooked": ("hooked.py", None, {}),
    "hook": ("hook.py", lightning_file(GOOD), {}),
    "hook satisfied": ("hook.py", lightning_file(GOOD, my_extra=1), {}),
    "hook asks for a value": ("hook_item.py", lightning_file(GOOD), {}),
    "lenient": ("lenient.py", lightning_file(GOOD), {}),
    "lenient against strict": ("lenient.py", lightning_file(GOOD), {"strict": True}),
    "late": ("late.py", lightning_file(GOOD), {}),
    "by hand": ("dropped.py", lightning_file(GOOD), {"call": "weights"}),
    "not from Lightning": ("dropped.py", checkpoint_of({"state_dict": GOOD}), {}),
    "not from Lightning, and no arguments": ("takes_layer.py", checkpoint_of({"state_dict": GOOD}), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    folder = tmp_path_factory.mktemp("models")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = os.getcwd()
    os.chdir(folder)
    try:
        requests = [TargetRequest(argument=a, checkpoint=c, **more) for a, c, more in REQUESTS.values()]
        found = dict(zip(REQUESTS, build_targets(requests, cache=False), strict=True))
        left = {p.name for p in folder.rglob("*.pyc")} | {p.name for p in folder.rglob("pwned")}
    finally:
        os.chdir(before)
    assert not left, "a question leaves nothing behind, and nothing that the file names is run"
    return found


def spec(target: Target) -> ModelSpec:
    assert target.spec is not None, target.failure
    return target.spec


def test_a_script_that_loads_at_its_last_line_is_stopped_there(built):
    target = built["load"]
    assert (target.stopped_at, target.stopped_by) == ("load.py:11", "load_from_checkpoint")
    assert [p.key for p in spec(target).params][:2] == ["layer1.weight", "layer1.bias"]
    assert [(m.path, m.line) for m in spec(target).modules if m.path] == [
        ("layer1", "load.py:7"),
        ("layer2", "load.py:8"),
        ("layer3", "load.py:10"),
    ]
    assert spec(target).class_path == "load.py:MyModel"
    assert spec(target).line == 4
    assert target.rehearsal is not None
    assert target.rehearsal.ok is False
    assert target.rehearsal.exception == "RuntimeError"
    assert target.rehearsal.missing == ("layer3.weight", "layer3.bias")
    assert target.rehearsal.message.startswith("Error(s) in loading state_dict for MyModel:\n\tMissing key(s)")


def test_the_only_lightning_module_needs_no_name(built):
    assert built["load without a name"].class_name == "MyModel"
    assert spec(built["load without a name"]).class_path == "load.py:MyModel"


def test_not_strict_reports_what_it_hides(built):
    rehearsal = built["not strict"].rehearsal
    assert rehearsal is not None
    assert rehearsal.ok is True
    assert len(rehearsal.missing) == 6


@pytest.mark.parametrize(
    "name, call",
    [("swallows", "torch.load"), ("trains", "Trainer.fit"), ("cli script", "LightningCLI")],
)
def test_scripts_are_stopped_even_where_they_catch_exceptions(built, name, call):
    assert built[name].stopped_by == call
    assert spec(built[name]).class_name == "MyModel"


@pytest.mark.parametrize(
    "name, text",
    [
        ("ends", "it ends the program (SystemExit: 0)"),
        ("guarded", 'WIDTH is set under if __name__ == "__main__"'),
        ("early", "early.py:2 calls torch.load before the class is defined"),
        ("reads", "reads.py:6 calls torch.load"),
        ("network", "it needs the network, which relight does not use"),
        ("config is called", "a stand-in was passed for hyper_parameters.cfg"),
        ("layer", "hyper_parameters.layer is an object of class my_custom_module.Layer"),
    ],
)
def test_what_cannot_be_told_is_unknown_with_a_reason(built, name, text):
    failure = built[name].failure
    assert failure is not None
    assert failure.kind is FailureKind.UNKNOWN
    assert text in failure.message


@pytest.mark.parametrize(
    "name, kind, facts",
    [
        ("two", FailureKind.TARGET_AMBIGUOUS, {"candidates": ("A", "B")}),
        ("wrong case", FailureKind.TARGET_NAME_MISSING, {"suggestions": ("MyModel",), "candidates": ("MyModel",)}),
        ("close", FailureKind.TARGET_NAME_MISSING, {"suggestions": ("MyModel",), "name": "MyModle"}),
        ("a number", FailureKind.TARGET_WRONG_TYPE, {"message": "a value of type int"}),
        ("a plain class", FailureKind.TARGET_WRONG_TYPE, {"message": "factory.Other"}),
        ("factory of text", FailureKind.TARGET_WRONG_TYPE, {"message": "it returns a value of type str"}),
        ("no such module", FailureKind.TARGET_FILE_MISSING, {"name": "nowhere.models"}),
        ("syntax", FailureKind.IMPORT_ERROR, {"exception": "SyntaxError", "file": "syntax.py", "line": 2}),
        (
            "no module",
            FailureKind.MODULE_NOT_FOUND,
            {"name": "my_custom_module", "file": "no_module.py", "line": 2, "source": "import my_custom_module"},
        ),
        (
            "no name",
            FailureKind.NAME_ERROR,
            {"name": "MyCustomLayer", "line": 7, "stage": "construct", "source": "self.custom_layer = MyCustomLayer()"},
        ),
        ("instantiator", FailureKind.INIT_ERROR, {"exception": "ValueError"}),
        ("kwargs", FailureKind.INIT_ERROR, {"exception": "TypeError", "file": "kwargs.py", "line": 8}),
    ],
)
def test_failures_are_facts(built, name, kind, facts):
    failure = built[name].failure
    assert failure is not None, built[name].spec
    assert failure.kind is kind, failure
    assert {k: getattr(failure, k) for k in facts} == facts


def test_places_of_a_missing_name_are_found_by_parsing(tmp_path_factory, built, monkeypatch):
    # The search runs where the check runs; the fixture's folder is left by now, so look at what was found there.
    assert built["no name"].failure.suggestions == ("training/my_custom_module.py:2",)
    assert built["no module"].failure.suggestions == ("training/my_custom_module.py",)
    assert built["elsewhere"].failure.suggestions == ("training/my_custom_module.py:2",)
    assert built["no name"].failure.searched == len([f for f in FILES if f.endswith(".py")])


def test_a_script_says_itself_which_class_it_loads(built):
    assert built["uses two"].class_name == "A"


def test_a_factory(built):
    target = built["factory"]
    assert (target.class_kind, spec(target).kind) == ("factory", "module")
    assert target.passed == ("width",)
    assert target.rehearsal.ok is True


def test_nested_classes_and_packages(built):
    assert spec(built["nested"]).class_name == "Outer.Inner"
    for name in ("package", "package by name"):
        first = spec(built[name]).module("first")
        assert first is not None
        assert (first.class_path, first.line) == ("package.layers.Layer", "package/model.py:6")


@pytest.mark.parametrize(
    "name",
    ["item", "approximated", "enum", "namespace", "numpy", "omegaconf", "attribute dict", "loss", "layer replaced",
     "lazy", "hook satisfied", "hook asks for a value", "lenient", "late", "by hand", "dropped", "hostile"],
)  # fmt: skip
def test_loads(built, name):
    assert built[name].failure is None, built[name].failure
    assert built[name].rehearsal is not None
    assert built[name].rehearsal.ok is True, built[name].rehearsal


def test_only_stand_ins_that_reach_the_constructor_are_approximated(built):
    assert built["approximated"].approximated == ("hyper_parameters.cfg",)
    assert built["enum"].approximated == ()
    assert built["loss"].approximated == ()
    assert built["config is replaced"].approximated == ()


def test_what_the_file_names_is_neither_imported_nor_called(built):
    target = built["hostile"]
    assert {p.split(".")[1][0] for p in target.approximated} >= set("abcdefhijklm")
    assert not [f for f in (target.environment.search_path if target.environment else ()) if f.endswith("pwned")]


def test_a_dict_in_place_of_a_config_fails_as_it_would(built):
    failure = built["config is replaced"].failure
    assert (failure.kind, failure.exception) == (FailureKind.INIT_ERROR, "AttributeError")


def test_dropped_and_passed(built):
    assert (built["dropped"].passed, built["dropped"].dropped) == (("width",), ("hidden",))
    target = built["renamed by init"]
    assert (target.passed, target.dropped) == (("width",), ("hidden",))
    assert target.rehearsal.ok is False
    assert "size mismatch for net.weight" in target.rehearsal.message
    assert built["kwargs"].passed == ("width", "old")
    assert built["kwargs"].init.var_keyword
    assert built["dropped"].init.location == "dropped.py:5"


def test_a_script_that_ends_itself_has_its_class(built):
    assert [p.key for p in spec(built["exits"]).params] == ["net.weight", "net.bias"]


def test_a_file_of_hparams(built):
    target = built["hparams file"]
    assert (target.passed, target.dropped) == (("width",), ("hidden",))
    assert spec(target).params[0].shape == (6, 3)


def test_lazy_parameters_have_no_shape(built):
    lazy = {p.key: (p.shape, p.dtype) for p in spec(built["lazy"]).params}
    assert lazy["net.weight"] == (None, "float32")


def test_hooks_ties_buffers_and_lines(built):
    found = spec(built["hooked"])
    by_key = {p.key: p for p in found.params}
    assert by_key["b.weight"].tied_with == ("c2.1.weight",)
    assert (by_key["mask"].persistent, by_key["mask"].kind, by_key["mask"].dtype) == (False, "buffer", "bool")
    assert by_key["c.running_mean"].kind == "buffer"
    lines = {m.path: m.line for m in found.modules}
    assert [lines[k] for k in ("a", "b", "c", "c2", "c2.1")] == [f"hooked.py:{n}" for n in (7, 8, 8, 9, 12)]
    hooks = {m.path: m.load_hooks for m in found.modules}
    assert hooks[""] == ("hooked.MyModel._load_from_state_dict",)
    assert hooks["c"] == ("torch.nn.modules.batchnorm._NormBase._load_from_state_dict",)
    assert hooks["c2.1"] == ()
    assert found.hooks == ("_load_from_state_dict",)


def test_on_load_checkpoint_that_needs_a_key(built):
    target = built["hook"]
    assert spec(target).hook_keys == ("my_extra",)
    assert spec(target).hooks == ("on_load_checkpoint",)
    rehearsal = target.rehearsal
    assert (rehearsal.ok, rehearsal.stage, rehearsal.exception) == (False, "on_load_checkpoint", "KeyError")
    assert rehearsal.message == "'my_extra'"
    assert (rehearsal.file, rehearsal.line) == ("hook.py", 13)
    assert rehearsal.source == 'self.extra = checkpoint["my_extra"]'


def test_strict_loading(built):
    assert spec(built["lenient"]).strict_loading is False
    assert built["lenient"].rehearsal.missing == ("more.weight", "more.bias")
    rehearsal = built["lenient against strict"].rehearsal
    assert (rehearsal.ok, rehearsal.exception) == (False, "ValueError")
    assert "which is in conflict with `MyModel.strict_loading=False`" in rehearsal.message
    assert spec(built["load"]).strict_loading is None


def test_lightnings_migration_comes_first(built):
    rehearsal = built["not from Lightning"].rehearsal
    assert (rehearsal.ok, rehearsal.stage, rehearsal.exception) == (False, "migrate", "KeyError")
    assert built["not from Lightning"].spec is not None
    target = built["not from Lightning, and no arguments"]
    assert (target.rehearsal.stage, target.failure.kind) == ("migrate", FailureKind.INIT_ERROR)


def test_layers_made_by_configure_model_are_in_the_spec(built):
    assert [p.key for p in spec(built["late"]).params] == ["net.weight", "net.bias"]


def test_the_environment_is_the_childs(built):
    environment = built["load"].environment
    assert environment is not None
    assert environment.torch is not None
    assert environment.lightning is not None
    assert environment.complete
    assert "torch" in (environment.modules or ())


def test_a_spec_survives_its_json(built, folder):
    found = spec(built["hooked"])
    again = ModelSpec.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.params == found.params
    assert again.modules == found.modules
    folder({"spec.json": json.dumps(found.to_dict())})
    target = build_target("spec.json")
    assert target.spec is not None
    assert target.spec.params == found.params
    assert target.environment is not None


def test_the_second_time_starts_no_child(folder, monkeypatch):
    folder({"net.py": "from torch import nn\nfrom parts import Part\nNet = type('Net', (Part,), {})\n",
            "parts.py": "from torch import nn\nclass Part(nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        self.a = nn.Linear(2, 2)\n"})  # fmt: skip
    said: list[str] = []
    first = build_target("net.py:Net", announce=said.append)
    assert said == ["loading torch to build Net ..."]
    started: list[object] = []
    real = capture._run_child
    monkeypatch.setattr(capture, "_run_child", lambda *a: started.append(a) or real(*a))
    second = build_target("net.py:Net", announce=said.append)
    assert (started, len(said)) == ([], 1)
    # The environment is looked at anew each time: free memory changes from one moment to the next.
    assert first.spec is not None
    assert second.spec is not None
    assert replace(second.spec, environment=None) == replace(first.spec, environment=None)
    folder({"parts.py": "from torch import nn\nclass Part(nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        self.a = nn.Linear(2, 3)\n"})  # fmt: skip
    third = build_target("net.py:Net")
    assert len(started) == 1
    assert third.spec is not None
    assert third.spec.params[0].shape == (3, 2)

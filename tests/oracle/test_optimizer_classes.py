"""Every optimizer of torch takes the state of every other one, or does not: a resume is predicted as it happens."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

import relight
from relight.core.finding import Confidence
from relight.facts import data
from relight.facts.joined_states import ELEMENTWISE

torch = pytest.importorskip("torch")
from relight.live import child  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
KNOWN = data.load("optimizer_classes")["classes"]


@dataclass(frozen=True)
class Kind:
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        return "-".join([self.name, *self.options])

    def make(self):
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
        return model, getattr(torch.optim, self.name)(model.parameters(), lr=1e-3, **self.options)


KINDS = [
    Kind("Adam"), Kind("Adam", {"amsgrad": True}), Kind("AdamW"), Kind("SGD"), Kind("SGD", {"momentum": 0.9}),
    Kind("RMSprop"), Kind("RMSprop", {"centered": True, "momentum": 0.9}), Kind("Adagrad"), Kind("Adadelta"),
    Kind("Adamax"), Kind("NAdam"), Kind("RAdam"), Kind("ASGD"), Kind("Rprop"), Kind("Adafactor"), Kind("LBFGS"),
]  # fmt: skip
# Nothing raises, and relight says so; that it is the state of another class is a warning.
SILENT = {("NAdam", "Adam"), ("NAdam", "AdamW"), ("NAdam", "Adam-amsgrad"), ("NAdam", "RAdam")}


def step(model, optimizer):
    def loss():
        optimizer.zero_grad()
        value = model(torch.ones(4, 3)).pow(2).mean()
        value.backward()
        return value

    optimizer.step(loss)


def trained(kind):
    model, optimizer = kind.make()
    step(model, optimizer)
    step(model, optimizer)
    return model, optimizer


def resumed(kind, state):
    """The name of what a resume with a state raises, empty where it does not."""
    model, optimizer = kind.make()
    try:
        optimizer.load_state_dict(copy.deepcopy(state))
        step(model, optimizer)
    except Exception as error:
        return type(error).__name__
    return ""


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """A spec for each, which differ in their training alone."""
    folder = tmp_path_factory.mktemp("specs")
    (folder / "net.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Linear(3, 2)\n")
    described = relight.spec(f"{folder / 'net.py'}:make").to_dict()
    out = {}
    for kind in KINDS:
        model, optimizer = kind.make()
        names = {id(p): n for n, p in model.named_parameters()}
        training = {
            "automatic": True, "schedulers": [], "unknown": "", "optimizers": [child.described_optimizer(optimizer, names)]
        }  # fmt: skip
        out[str(kind)] = folder / f"{kind}.json"
        out[str(kind)].write_text(json.dumps({**described, "training": training}))
    return out


@pytest.mark.parametrize("written", KINDS, ids=str)
def test_a_resume_with_the_state_of_each(written, specs, folder):
    model, optimizer = trained(written)
    state = optimizer.state_dict()
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 0, "completed": 0}}}}
    torch.save(
        {
            "epoch": 0, "global_step": 2, "pytorch-lightning_version": "2.6.6", "state_dict": model.state_dict(),
            "loops": loops, "callbacks": {}, "optimizer_states": [state], "lr_schedulers": [],
        },
        "model.ckpt",
    )  # fmt: skip
    for reading in KINDS:
        report = relight.check(folder / "model.ckpt", target=str(specs[str(reading)]), intent="resume")
        found = [f for f in report.findings if f.name == "optimizer-differs"]
        said = report.prediction.exception if report.prediction is not None else ""
        assert said == resumed(reading, state), str(reading)
        assert bool(found) is (bool(said) or (str(written), str(reading)) in SILENT), str(reading)
        assert all(f.confidence is not Confidence.CERTAIN for f in found)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.options], ids=str)
def test_what_a_class_looks_up_is_recorded(kind):
    _, optimizer = trained(kind)
    state = optimizer.state_dict()
    options = {k for k in state["param_groups"][0] if k != "params"}
    recorded = KNOWN[child.class_path(type(optimizer))]
    needed = set()
    for option in options:
        without = copy.deepcopy(state)
        del without["param_groups"][0][option]
        if resumed(kind, without):
            needed.add(option)
    assert needed == set(recorded["options"])
    for entry in recorded["states"]:
        without = copy.deepcopy(state)
        for values in without["state"].values():
            values.pop(entry, None)
        assert resumed(kind, without) == "KeyError", entry


def test_states_with_a_value_for_each_of_the_parameter_are_known():
    of_its_shape, of_another = set(), set()
    for kind in KINDS:
        _, optimizer = trained(kind)
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and kind.name not in ("LBFGS", "Adafactor"):
                    (of_its_shape if value.shape == parameter.shape else of_another).add(name)
    assert of_another & ELEMENTWISE == set()
    assert of_its_shape <= ELEMENTWISE

"""What counts as a change of source, and what does not; attributes as text."""

from __future__ import annotations

import functools
import importlib.util
import itertools

import pytest
import torch
from torch import nn

from relight.manifest import structure

pytestmark = pytest.mark.torch

BASE = '''
import torch
import torch.nn.functional as F
from torch import nn

SCALE = 0.5

def scaled(x):
    return x * SCALE

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.act = nn.ReLU()
        self.heads = 2
        self.seen = 0

    def forward(self, x, mask=None):
        """Doc."""
        y = self.lin(x)
        y = self._mix(y)
        if mask is not None:
            y = y * mask
        return scaled(self.act(y))

    def _mix(self, z):
        self.seen += 1
        return F.softmax(z, dim=-1) + z / self.heads
'''
_count = itertools.count()


def _described(tmp_path, source):
    n = next(_count)
    path = tmp_path / f"models{n}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"models{n}", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return structure.structure(module.Net(), torch)


def _digests(found):
    return {n: f["digest"] for n, f in found["functions"].items()}


HARMLESS = {
    "comments and blank lines": [("y = self.lin(x)", "# first\n\n        y = self.lin(x)")],
    "formatting": [("y = y * mask", "y = (y\n                 * mask)")],
    "a docstring": [('"""Doc."""', '"""Another text."""')],
    "no docstring": [('"""Doc."""', "pass")],
    "names of locals": [("y", "hidden")],
    "names of arguments": [("def _mix(self, z)", "def _mix(self, value)"), ("z", "value")],
    "annotations": [("def forward(self, x, mask=None)", "def forward(self, x: torch.Tensor, mask=None) -> torch.Tensor")],
    "another name for an import": [("import torch.nn.functional as F", "import torch.nn.functional as FF"), ("F.soft", "FF.soft")],
    "the same function by another path": [("F.softmax", "nn.functional.softmax")],
    "a constant is renamed": [("SCALE", "FACTOR")],
    "a helper is renamed": [("scaled", "rescaled"), ("_mix", "_blend")],
    "an assertion": [("y = self.lin(x)", "assert x.ndim == 2\n        y = self.lin(x)")],
    "it prints": [("y = self.lin(x)", "print(x.shape)\n        y = self.lin(x)")],
    "another order of methods": [("    def _mix", "    def unused(self):\n        return 1\n\n    def _mix")],
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_count(tmp_path, name):
    source = BASE
    for old, new in HARMLESS[name]:
        import re

        pattern = rf"\b{re.escape(old)}\b" if old.isidentifier() else re.escape(old)
        source = re.sub(pattern, lambda _, new=new: new, source)
    assert source != BASE
    assert sorted(_digests(_described(tmp_path, BASE)).values()) == sorted(
        _digests(_described(tmp_path, source)).values()
    )


CHANGED = {
    "a constant": ("SCALE = 0.5", "SCALE = 0.7", "scaled"),
    "a literal": ("dim=-1", "dim=0", "Net._mix"),
    "a function": ("F.softmax", "F.log_softmax", "Net._mix"),
    "an operator": ("z / self.heads", "z * self.heads", "Net._mix"),
    "the order of calls": ("y * mask", "mask - y", "Net.forward"),
    "a default": ("mask=None", "mask=1", "Net.forward"),
    "a step is left out": ("        y = self._mix(y)\n", "", "Net.forward"),
    "another attribute": ("scaled(self.act(y))", "scaled(self.lin(y))", "Net.forward"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_counts(tmp_path, name):
    old, new, where = CHANGED[name]
    before, after = _described(tmp_path, BASE), _described(tmp_path, BASE.replace(old, new))
    one, two = before["functions"][where], after["functions"][where]
    assert (one["digest"], one["attributes"]) != (two["digest"], two["attributes"])
    others = set(before["functions"]) & set(after["functions"]) - {where}
    assert all(_digests(before)[n] == _digests(after)[n] for n in others)


def test_attributes_are_those_that_forward_reads_and_no_run_changes(tmp_path):
    found = _described(tmp_path, BASE.replace("self.seen = 0", "self.seen = 0\n        self.name = 'run 3'"))
    assert found["modules"][0]["attributes"] == {"heads": "2"}


def test_statements_say_where(tmp_path):
    before = _described(tmp_path, BASE)["functions"]["Net.forward"]["statements"]
    after = _described(tmp_path, BASE.replace("y = y * mask", "y = y + mask"))["functions"]["Net.forward"]["statements"]
    differing = [b for a, b in zip(before, after, strict=True) if a[0] != b[0]]
    assert [line for _, line in differing] == [BASE.splitlines().index("            y = y * mask") + 1]


@pytest.mark.parametrize(
    "value, text",
    [
        (1, "1"),
        ([1, 1], "(1, 1)"),
        ((1, 1), "(1, 1)"),
        ("gelu", "'gelu'"),
        (nn.functional.gelu, "torch.gelu"),
        (nn.functional.relu, "torch.nn.functional.relu"),
        (torch.tanh, "torch.tanh"),
        (functools.partial(nn.functional.softmax, dim=1), "partial(torch.nn.functional.softmax, (), {'dim': 1})"),
        (torch.float16, "torch.float16"),
        (torch.zeros(2, 3), "tensor float32 [2, 3]"),
        (nn.ReLU, "torch.nn.modules.activation.ReLU"),
        ({"b": 1, "a": None}, "{'a': None, 'b': 1}"),
        (object(), None),
        ("x" * 500, None),
    ],
)
def test_values_as_text(value, text):
    assert structure.text_of(value) == text


def test_unsaved_buffers_and_tied_names():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["a"].register_buffer("table", torch.zeros(3), persistent=False)
    found = structure.structure(model, torch)
    assert found["tied"] == [["a.weight", "b.weight"]]
    assert found["buffers"] == [{"key": "a.table", "dtype": "float32", "shape": [3], "values": [0.0] * 12}]
    assert "values" not in structure.structure(model.to("meta"), torch)["buffers"][0]


def test_a_compiled_or_wrapped_module_is_seen_through():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    outer = nn.Module()
    outer._orig_mod = inner
    whole = nn.ModuleDict({"net": outer})
    paths = [m["path"] for m in structure.structure(whole, torch)["modules"]]
    assert paths == ["", "net", "net.0", "net.1"]

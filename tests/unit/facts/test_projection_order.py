"""What the source of a class says about the order of a fused layer's parts, and when it says nothing."""

from __future__ import annotations

import pytest

from relight.core.target import ModelSpec, ModuleSpec, Target
from relight.facts.facts import Facts
from relight.facts.projection_order import order, role
from relight.facts.question import Question
from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing import write

SOURCE = """\
class Other:
    def forward(self, x):
        k, v, q = self.qkv(x).chunk(3, -1)


class Model:
    def __init__(self):
        self.qkv = Linear(4, 12)

    def forward(self, x):
        {use}
"""


def asked(use, tmp_path):
    (tmp_path / "models.py").write_text(SOURCE.format(use=use))
    spec = ModelSpec(
        class_name="Model",
        class_path="models.Model",
        modules=(ModuleSpec("qkv", "Linear", line=f"{tmp_path}/models.py:8"),),
    )
    target = Target(argument="models.py:Model", class_name="Model", file="models.py", spec=spec)
    checkpoint = open_checkpoint(write(File(), tmp_path / "m.ckpt"))
    return order(Facts(checkpoint, Question(path="m.ckpt"), target, None), "qkv")


@pytest.mark.parametrize(
    "use, expected",
    [
        ("q, k, v = self.qkv(x).chunk(3, -1)", "qkv"),
        ("q, k, v = self.qkv(x).chunk(3, dim=-1)", "qkv"),
        ("k, q, v = self.qkv(x).split(4, dim=2)", "kqv"),
        ("value, query, key = self.qkv(x).tensor_split(3, -1)", "vqk"),
    ],
)
def test_taken_apart_by_name(use, expected, tmp_path):
    assert "".join(asked(use, tmp_path)) == expected


@pytest.mark.parametrize(
    "use",
    [
        "q, k, v = self.qkv(x).chunk(3, 1)",
        "q, k, v = self.qkv(x).chunk(3)",
        "q, k, v = self.qkv(x).reshape(2, 3, 4).chunk(3, -1)",
        "a, b, c = self.qkv(x).chunk(3, -1)",
        "q, k, q = self.qkv(x).chunk(3, -1)",
        "x = self.qkv(x)",
        "q, k, v = self.other(x).chunk(3, -1)",
        "q, k, v = self.qkv(x).chunk(3, -1); k, q, v = self.qkv(x).chunk(3, -1)",
        "q, k, v = self.qkv(x).chunk(3, -1); y = self.qkv(x)",
    ],
)
def test_anything_else_tells_nothing(use, tmp_path):
    assert asked(use, tmp_path) is None


def test_names():
    assert [role(n) for n in ("q", "query", "k_proj", "to_v", "values", "out_proj", "qk", "proj")] == [
        "q", "q", "k", "v", "v", None, None, None,
    ]  # fmt: skip

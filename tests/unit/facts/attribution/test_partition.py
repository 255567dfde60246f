"""Every key that differs is explained exactly once, whatever file and model are."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.core.checkpoint import TensorEntry
from relight.core.target import ModelSpec, ModuleSpec, ParamSpec
from relight.facts.attribution import attribute
from relight.facts.keys import compare
from relight.facts.mapper.layers import Tensor

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks"))

import keymap_score

CASES = {case["id"]: case for case in keymap_score.cases([keymap_score.BUNDLED])}


def compared(source: list[Tensor], target: list[Tensor], tied: tuple[str, ...] = ()):
    """What differs, and its explanations; every key that has a common storage name shares one storage."""
    entries = [
        TensorEntry(t.key, t.dtype, t.shape, (), 0, "shared" if t.key in tied else str(i), "cpu", ())
        for i, t in enumerate(source)
    ]
    checkpoint = SimpleNamespace(tensors=entries, extra_keys=(), metadata=None)
    steps = dict.fromkeys([".".join(t.key.split(".")[:i]) for t in target for i in range(t.key.count(".") + 1)])
    spec = ModelSpec(
        class_name="Net",
        class_path="net.py:Net",
        params=tuple(
            ParamSpec(t.key, t.dtype, t.shape, tied_with=tuple(k for k in tied if k != t.key) if t.key in tied else ())
            for t in target
        ),
        modules=tuple(ModuleSpec(path, "net.Part") for path in dict.fromkeys(["", *steps])),
    )
    diff = compare(checkpoint, spec)  # type: ignore[arg-type]
    return diff, attribute(diff, checkpoint, spec)  # type: ignore[arg-type]


def check(diff, found) -> None:
    for kind, wanted in (
        ("missing", diff.missing),
        ("unexpected", diff.unexpected),
        ("mismatched", [m.key for m in diff.mismatched]),
    ):
        told = Counter(k if isinstance(k, str) else k.key for e in found.explanations for k in getattr(e, kind))
        assert not [k for k, n in told.items() if n > 1], kind
        if not found.unrelated:  # else one finding says all that is left
            assert set(told) == set(wanted), kind
    for e in found.explanations:
        olds, news = [o for o, _ in e.pairs], [n for _, n in e.pairs]
        if e.kind not in ("converted", "tied"):  # there one tensor may go to several, or several to one
            assert len(set(olds)) == len(olds)
            assert len(set(news)) == len(news)


@pytest.mark.parametrize("name", sorted(CASES))
def test_real_conversions(name):
    case = CASES[name]
    check(*compared(keymap_score.tensors(case["source"]), keymap_score.tensors(case["target"])))


BLOCK = (
    ("attn.q_proj.weight", (8, 8)), ("attn.k_proj.weight", (8, 8)), ("attn.v_proj.weight", (8, 8)),
    ("attn.out.weight", (8, 8)), ("attn.out.bias", (8,)), ("norm.weight", (8,)), ("norm.bias", (8,)),
    ("bn.weight", (8,)), ("bn.running_mean", (8,)), ("bn.running_var", (8,)), ("bn.num_batches_tracked", ()),
    ("mlp.0.weight", (16, 8)), ("mlp.2.weight", (8, 16)),
)  # fmt: skip
MODEL = [
    Tensor("embed.weight", (20, 8)),
    Tensor("pos_embed", (1, 5, 8)),
    *(Tensor(f"blocks.{i}.{key}", shape) for i in range(3) for key, shape in BLOCK),
    Tensor("head.weight", (20, 8)),
    Tensor("head.bias", (20,)),
]
EDITS = st.sampled_from(
    [
        ("replace", "blocks", "layers"),
        ("replace", "attn", "attention"),
        ("replace", "blocks.1", "blocks.7"),
        ("replace", "mlp.2", "mlp.3"),
        ("replace", "mlp.0", "mlp._orig_mod.0"),
        ("replace", "q_proj", "q_proj.base_layer"),
        ("replace", "head", "classifier.out"),
        ("front", "model."),
        ("front", "module._orig_mod."),
        ("front", "model_ema."),
        ("drop", "norm"),
        ("drop", "blocks.2"),
        ("drop", "head"),
        ("drop", "num_batches_tracked"),
        ("copy", "ema_model."),
        ("copy", "criterion."),
        ("add", "blocks.1.attn.q_proj.lora_A.default.weight", (2, 8)),
        ("add", "discriminator.0.weight", (4, 4)),
        ("add", "loss.pos_weight", (2,)),
        ("add", "blocks.0.attn.qkv.weight", (24, 8)),
        ("add", "blocks.0.mlp.0.weight_fake_quant.scale", (1,)),
        ("size", 0, 2),
        ("size", 1, 2),
        ("turn",),
        ("forms", "_g", "_v"),
        ("forms", "_orig", "_mask"),
    ]
)


def edited(tensors: list[Tensor], edit: tuple) -> list[Tensor]:
    kind, *rest = edit
    if kind == "replace":
        return [t._replace(key=t.key.replace(rest[0], rest[1])) for t in tensors]
    if kind == "front":
        return [t._replace(key=rest[0] + t.key) for t in tensors]
    if kind == "drop":
        return [t for t in tensors if rest[0] not in t.key]
    if kind == "copy":
        return [*tensors, *(t._replace(key=rest[0] + t.key) for t in tensors)]
    if kind == "add":
        return [*tensors, Tensor(rest[0], rest[1])]
    if kind == "size":
        at, factor = rest
        return [t._replace(shape=tuple(n * factor if i == at else n for i, n in enumerate(t.shape))) for t in tensors]
    if kind == "turn":
        return [t._replace(shape=t.shape[::-1]) for t in tensors]
    parts = [t for t in tensors if t.key.endswith("out.weight")]
    rest_of = [t for t in tensors if t not in parts]
    return [*rest_of, *(t._replace(key=t.key + end) for t in parts for end in rest)]


@settings(deadline=None)
@given(st.lists(EDITS, max_size=4), st.lists(EDITS, max_size=3), st.booleans())
def test_any_changes_on_both_sides(mine, theirs, tied):
    sides = [MODEL, MODEL]
    for i, edits in enumerate((mine, theirs)):
        for edit in edits:
            sides[i] = edited(sides[i], edit)
        sides[i] = list({t.key: t for t in sides[i]}.values())
    check(*compared(*sides, tied=("embed.weight", "head.weight") if tied else ()))


@given(st.lists(EDITS, max_size=3))
def test_what_is_the_same_is_not_explained(edits):
    side = MODEL
    for edit in edits:
        side = list({t.key: t for t in edited(side, edit)}.values())
    diff, found = compared(side, side)
    assert diff.clean
    assert not found.explanations
    assert not found.unrelated

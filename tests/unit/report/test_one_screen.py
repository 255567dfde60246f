"""Reports of hundreds of wrong keys: one screen, whatever is wrong with them."""

from __future__ import annotations

import random

import pytest

from relight.engine.diagnose import diagnose
from relight.report.printable import Report
from relight.rulekit import File, Fires, Model
from relight.rulekit.registry import all_rules
from relight.testing import facts_of

_PARTS = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.fc1", "mlp.fc2")
_OTHER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "ffn.lin1", "ffn.lin2")


def blocks(count, prefix="encoder.layers.", parts=_PARTS, width=8):
    out = {}
    for i in range(count):
        for part in parts:
            out |= {f"{prefix}{i}.{part}.weight": (width, width), f"{prefix}{i}.{part}.bias": (width,)}
        for norm in ("norm1", "norm2"):
            out |= {f"{prefix}{i}.{norm}.weight": (width,), f"{prefix}{i}.{norm}.bias": (width,)}
    return {**out, "head.weight": (10, width), "head.bias": (10,)}


def scattered(count):
    chance = random.Random(1)
    words = ["alpha", "beta", "gamma", "delta", "zeta", "theta", "iota", "kappa", "sigma", "omega"]
    return {f"{chance.choice(words)}.{chance.choice(words)}_{i}.weight": (i % 7 + 2, 5) for i in range(count)}


LONG = "model.text_encoder.transformer.resblocks.{}.some_really_long_submodule_name.another_long_name."
WHOLE = blocks(20)
CASES = {
    "a container has another name": (WHOLE, blocks(20, "backbone.blocks.")),
    "all parts have other names": (WHOLE, blocks(20, parts=_OTHER)),
    "a wrapper": ({f"module.{k}": v for k, v in WHOLE.items()}, WHOLE),
    "fewer layers in the file": (blocks(8), WHOLE),
    "more layers in the file": (WHOLE, blocks(8)),
    "another width": (WHOLE, blocks(20, width=16)),
    "another model": (WHOLE, {f"features.{i}.conv{j}.weight": (4, 4, 3, 3) for i in range(10) for j in range(10)}),
    "hundreds of new tensors": (WHOLE, {**WHOLE, **scattered(300)}),
    "hundreds of tensors too many": ({**WHOLE, **scattered(300)}, WHOLE),
    "hundreds of shapes": ({f"a_{i}.weight": (i + 2, 5) for i in range(300)}, {f"a_{i}.weight": (i + 2, 7) for i in range(300)}),
    "long names": (
        {LONG.format(i) + "projection.weight": (8, 8) for i in range(100)},
        {LONG.format(i) + "projector.weight": (8, 8) for i in range(100)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("case", CASES)
def test_one_screen(case, width, tmp_path, monkeypatch):
    saved, wanted = CASES[case]
    example = Fires(name=case, file=File(tensors=saved), model=Model(params=wanted))
    report = Report.of(diagnose(facts_of(example, tmp_path), all_rules()))
    lines = report.text(width=width).replace(str(tmp_path), "").splitlines()
    assert len(lines) <= 40, "\n".join(lines)
    # Code and names are as long as they are; nothing else is.
    prose = [s for s in lines[1:] if not s.startswith("    ") and max(map(len, s.split()), default=0) <= width - 20]
    assert max(map(len, prose)) <= min(width, 100)
    # No tag on a line of its own, and no list of torch's that breaks off in a name.
    assert not any(s.strip().startswith("[") for s in lines)
    assert "\n".join(lines).count('"') % 2 == 0

"""Layers that one wrapper more, or less, stands around."""

from __future__ import annotations

import pytest

from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.mapping import map_keys
from relight.facts.mapper.steps import by_one_step

PLAIN = {"fc.weight": (16, 8), "fc.bias": (16,), "out.weight": (4, 16), "out.bias": (4,)}
WRAPPED = {key.replace(".", ".base.", 1): shape for key, shape in PLAIN.items()}
ADAPTERS = {"fc.A": (2, 8), "fc.B": (16, 2), "out.A": (2, 16), "out.B": (4, 2)}


def tensors(shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
    return [Tensor(key, shape, "float32") for key, shape in shapes.items()]


def pairs(source: dict[str, tuple[int, ...]], target: dict[str, tuple[int, ...]]) -> dict[str, str]:
    return {key: pair.source[0] for key, pair in map_keys(tensors(source), tensors(target)).pairs.items()}


@pytest.mark.parametrize("source, target", [(PLAIN, {**ADAPTERS, **WRAPPED}), ({**ADAPTERS, **WRAPPED}, PLAIN)])
def test_layers_inside_adapters(source, target):
    found = pairs(source, target)
    ours, theirs = ([key for key in side if key not in ADAPTERS] for side in (source, target))
    assert [found[key] for key in theirs] == ours
    assert not any(key in ADAPTERS for key in found)


@pytest.mark.parametrize(
    "source, target",
    [
        # Two layers of that size in the new module: which one it was no name says.
        (PLAIN, {"fc.one.weight": (16, 8), "fc.one.bias": (16,), "fc.two.weight": (16, 8), "fc.two.bias": (16,)}),
        # Only the bias fits.
        (PLAIN, {"fc.base.weight": (16, 9), "fc.base.bias": (16,)}),
        # The plain name is still there.
        ({"fc.weight": (16, 8)}, {"fc.weight": (16, 9), "fc.base.weight": (16, 8)}),
        (PLAIN, PLAIN),
    ],
)
def test_near_misses(source, target):
    assert by_one_step(tensors(source), tensors(target), ()) == {}

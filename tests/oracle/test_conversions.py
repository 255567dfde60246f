"""What a conversion is said to lose it loses, and what is said to lose nothing gives every value back."""

from __future__ import annotations

import itertools

import pytest

from relight.facts.conversions import Loss, loss

FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")


@pytest.mark.parametrize("saved, wanted", list(itertools.permutations(FLOATS, 2)))
def test_between_floats(saved, wanted):
    import torch

    a, b = getattr(torch, saved), getattr(torch, wanted)
    kind = torch.finfo(a)
    values = torch.tensor([1.0, 1.0 + kind.eps, kind.max, -kind.max / 2], dtype=torch.float64).to(a)
    back = values.to(b).to(a).double()
    said = loss(saved, wanted)
    assert torch.equal(back, values.double()) is (said is Loss.NONE)
    if said is Loss.DIGITS:
        assert torch.isfinite(values.to(b).double()).any()


def test_the_others():
    assert loss("complex64", "float32") is Loss.IMAGINARY
    assert loss("float32", "int64") is Loss.FRACTION
    assert loss("int32", "int64") is Loss.NONE
    assert loss("int64", "int32") is Loss.NONE
    assert loss("int64", "uint8") is Loss.RANGE
    assert loss("float32", "something new") is Loss.NONE

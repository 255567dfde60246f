"""Tensors that are computed: against torch where that is here, and refused where it makes no sense."""

from __future__ import annotations

import base64

import pytest

from relight.core.checkpoint import TensorEntry
from relight.core.objects import ObjectPath
from relight.repair.computing import computed, content
from relight.repair.tensor_values import strides

torch = pytest.importorskip("torch")

TYPES = ["float32", "float64", "float16", "bfloat16"]


def entry(tensor, name="x"):
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorEntry(name, dtype, tuple(tensor.shape), strides(tensor.shape), 0, "0", "cpu", ObjectPath((name,)))


def raw(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def made(how, shape, *tensors, dtype=None, name="new"):
    entries = [entry(t, str(i)) for i, t in enumerate(tensors)]
    dtype = dtype or entries[0].dtype
    value = computed(name, entries, how, tuple(shape), dtype)
    held = {str(i): raw(t) for i, t in enumerate(tensors)}
    data = content(value, lambda e, first, length: held[e.key][first : first + length])
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).reshape(shape)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_weight_from_its_magnitude_and_direction_and_back(dtype, dim):
    torch.manual_seed(0)
    v = torch.randn(4, 3, 2, dtype=torch.float64).to(getattr(torch, dtype))
    layer = torch.nn.Conv1d(3, 4, 2).to(v.dtype)
    layer.weight.data.copy_(v)
    g = made("norm:0", () if dim is None else [n if i == dim else 1 for i, n in enumerate(v.shape)], v)
    expected = v.norm() if dim is None else torch.norm_except_dim(v.double(), 2, dim).to(v.dtype)
    torch.testing.assert_close(g, expected)
    scaled = (g.double() * 2).to(v.dtype)
    torch.testing.assert_close(made("fold:0", v.shape, scaled, v), (v.double() * 2).to(v.dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_are_cut_or_get_the_mean(dtype):
    table = torch.randn(5, 3).to(getattr(torch, dtype))
    assert torch.equal(made("rows:cut", (2, 3), table), table[:2])
    grown = made("rows:mean", (7, 3), table)
    assert torch.equal(grown[:5], table)
    expected = table.double().mean(0).to(table.dtype)
    torch.testing.assert_close(grown[5:], expected.expand(2, 3))


def test_positions_in_the_middle_dimension():
    table = torch.randn(2, 3, 4)
    grown = made("rows:mean", (2, 5, 4), table)
    assert torch.equal(grown[:, :3], table)
    torch.testing.assert_close(grown[:, 4], table.mean(1))


@pytest.mark.parametrize("sizes", [(4, 9), (9, 4), (16, 25)])
def test_positions_of_a_square_are_interpolated_as_torch_does_it(sizes):
    a, b = (int(n**0.5) for n in sizes)
    table = torch.randn(1, 1 + a * a, 6)
    out = made("grid:1", (1, 1 + b * b, 6), table)
    square = table[:, 1:].reshape(1, a, a, 6).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(square, size=(b, b), mode="bilinear", align_corners=False)
    assert torch.equal(out[:, :1], table[:, :1])
    torch.testing.assert_close(out[:, 1:], wanted.permute(0, 2, 3, 1).reshape(1, b * b, 6))


def test_what_is_drawn_is_drawn_the_same_again_and_another_for_another_name():
    one, again, other = (made("uniform:16", (8, 16), dtype="float32", name=n) for n in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.abs().max() <= 0.25
    assert one.unique().numel() == one.numel()


@pytest.mark.parametrize("saved", [*TYPES, "int64", "bool"])
@pytest.mark.parametrize("wanted", TYPES)
def test_converted_as_torch_converts(saved, wanted):
    values = torch.tensor([0.0, 1.0, -2.5, 1e-3, 3.14159, 65504.0, 1e6, 1e30, float("inf"), -float("inf")])
    source = torch.tensor([0, 1, 2, 77]) if saved in ("int64", "bool") else values
    source = source.to(getattr(torch, saved))
    assert torch.equal(made("cast", source.shape, source, dtype=wanted), source.to(getattr(torch, wanted)))


def test_nan_stays_nan():
    nan = torch.tensor([float("nan")])
    for wanted in TYPES:
        assert made("cast", (1,), nan, dtype=wanted).isnan().all()


@pytest.mark.parametrize(
    "how, shape, sources",
    [
        ("rows:mean", (5, 4), [(3, 3)]),
        ("grid:0", (1, 8, 2), [(1, 4, 2)]),
        ("fold:0", (4, 3), [(3, 1), (4, 3)]),
        ("norm:0", (2, 2), [(4, 3)]),
        ("cast", (2,), [(3,)]),
        ("rows:mean", (3, 3), []),
        ("value:AAAA", (2,), []),
        ("value:?", (1,), []),
        ("anything", (1,), [(1,)]),
    ],
)
def test_what_makes_no_sense_is_refused(how, shape, sources):
    with pytest.raises(ValueError, match=r"."):
        computed("x", [entry(torch.zeros(s)) for s in sources], how, shape, "float32")


def test_whole_numbers_are_not_averaged():
    with pytest.raises(ValueError, match="int64"):
        computed("x", [entry(torch.zeros(3, dtype=torch.int64))], "rows:mean", (5,), "int64")


def test_a_value_is_taken_as_it_is():
    data = torch.tensor([1.5, 2.5])
    how = "value:" + base64.b64encode(raw(data)).decode()
    assert torch.equal(made(how, (2,), dtype="float32"), data)

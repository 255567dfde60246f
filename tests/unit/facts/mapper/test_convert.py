"""What a mapping does to real tensors is what its ops say."""

from __future__ import annotations

import pytest
import torch

from relight.core.errors import UsageError
from relight.facts.mapper.pairs import KeyMap, Pair


def mapped(op: str, sources: tuple[str, ...], shape: tuple[int, ...]) -> KeyMap:
    return KeyMap({"new": Pair("new", sources, op, "certain", "")}, shapes={"new": shape})


A = torch.arange(12.0).reshape(4, 3)
B = A + 100
C = A - 100


@pytest.mark.parametrize(
    "op, sources, expected",
    [
        ("copy", "A", A),
        ("transpose", "A", A.t()),
        ("reshape", "A", A.reshape(4, 3, 1, 1)),
        ("concat:0", "ABC", torch.cat([A, B, C])),
        ("concat:1", "AB", torch.cat([A, B], dim=1)),
        ("concat:0+transpose", "AB", torch.cat([A, B]).t()),
        ("split:0:1/2", "A", A[2:]),
        ("split:1:2/3", "A", A[:, 2:]),
        ("split:1:0/3+transpose", "A", A[:, :1].t()),
        ("slice:0:1:4", "A", A[1:4]),
        ("permute:1,0", "A", A.t()),
        ("reshape+transpose", "A", A.t()),
        ("stack:0", "AB", torch.stack([A, B])),
        ("stack2:1", "ABCA", torch.cat([torch.stack([A, B]), torch.stack([C, A])], dim=1)),
    ],
)
def test_ops(op, sources, expected):
    found = mapped(op, tuple(sources), tuple(expected.shape))
    new = found.convert({"A": A, "B": B, "C": C, "unused": A})
    assert list(new) == ["new"]
    assert torch.equal(new["new"], expected)
    assert new["new"].is_contiguous()
    # A part keeps no larger storage alive: what is saved is what is there.
    assert new["new"].untyped_storage().nbytes() == expected.numel() * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.bool, torch.complex64])
def test_bits_stay_as_they_are(dtype):
    a = (torch.arange(6) % 2).to(dtype).reshape(2, 3)
    new = mapped("concat:0", ("a", "b"), (4, 3)).convert({"a": a, "b": a})["new"]
    assert new.dtype == dtype
    assert torch.equal(new, torch.cat([a, a]))


def test_values_are_never_invented():
    with pytest.raises(UsageError, match="resize would invent values"):
        mapped("resize", ("A",), (9, 3)).convert({"A": A})


def test_a_mapping_for_another_file():
    with pytest.raises(UsageError, match="has no B"):
        mapped("copy", ("B",), (4, 3)).convert({"A": A})


def test_a_whole_checkpoint_in_place_of_its_state_dict():
    with pytest.raises(UsageError, match=r"has no A") as error:
        mapped("copy", ("A",), (4, 3)).convert({"epoch": 1, "state_dict": {"A": A}})
    assert "one step deeper: ['state_dict']" in str(error.value.hint)

"""Many keys in few words, and never more keys than there are."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from relight.facts.patterns import folded, folded_pairs


def test_repeated_blocks_and_the_tensors_of_one_layer():
    keys = [f"layers.{i}.attn.{p}.{leaf}" for i in range(12) for p in "qk" for leaf in ("weight", "bias")]
    assert list(folded([*keys, "head.weight"])) == [
        "layers.{0..11}.attn.q.{weight,bias}",
        "layers.{0..11}.attn.k.{weight,bias}",
        "head.weight",
    ]


def test_stages_of_different_depth_are_not_one_grid():
    keys = [f"stages.{i}.{j}.conv.weight" for i, depth in enumerate((2, 3)) for j in range(depth)]
    assert list(folded(keys)) == ["stages.0.{0,1}.conv.weight", "stages.1.{0..2}.conv.weight"]


def test_every_second_and_any_numbers():
    assert list(folded(f"net.{i}.weight" for i in range(0, 16, 2))) == ["net.{0,2..14}.weight"]
    assert list(folded(f"net.{i}.weight" for i in (0, 3, 4))) == ["net.{0,3,4}.weight"]


def test_keys_without_dots():
    keys = [f"bert/layer_{i}/dense/{leaf}" for i in range(3) for leaf in ("kernel", "bias")]
    assert list(folded(keys)) == ["bert/layer_{0..2}/dense/kernel", "bert/layer_{0..2}/dense/bias"]


def test_numbers_with_leading_zeros_are_names():
    assert list(folded(["block01.weight", "block02.weight"])) == ["block01.weight", "block02.weight"]


def test_pairs_move_together():
    pairs = [(f"blocks.{i}.attn", f"layers.{i + 1}.attention") for i in range(6)]
    assert list(folded_pairs([*pairs, ("fc", "head")])) == [
        ("blocks.{0..5}.attn", "layers.{1..6}.attention"),
        ("fc", "head"),
    ]


def expanded(pattern: str) -> list[str]:
    """The keys that a pattern stands for, where its numbers vary each with each."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            choices.append([part])
        elif ".." in part:
            head, _, last = part.partition("..")
            first, _, second = head.partition(",")
            step = int(second) - int(first) if second else 1
            choices.append([str(n) for n in range(int(first), int(last) + 1, step)])
        else:
            choices.append(part.split(","))
    return ["".join(c) for c in itertools.product(*choices)]


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["weight", "bias"])), max_size=30))
def test_patterns_stand_for_the_keys_and_nothing_else(places):
    keys = [f"layers.{i}.conv{j}.{leaf}" for i, j, leaf in sorted(places)]
    found = folded(keys)
    assert sorted(k for members in found.values() for k in members) == sorted(keys)
    for pattern, members in found.items():
        assert set(members) <= set(expanded(pattern))
        # Columns that move together are written alike: then a pattern stands for fewer than each with each.
        assert len(members) == len(expanded(pattern)) or pattern.count("{") > 1

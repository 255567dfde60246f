"""The key mapper against real conversions, and what must hold for any pair of listings."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.facts.mapper.assignment import assign
from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.mapping import by_rules, kept, map_keys

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks"))

import keymap_score

CASES = {case["id"]: case for case in keymap_score.cases([keymap_score.BUNDLED])}


def sides(name: str) -> tuple[list[Tensor], list[Tensor]]:
    case = CASES[name]
    return keymap_score.tensors(case["source"]), keymap_score.tensors(case["target"])


def renamed(tensors: list[Tensor], old: str, new: str) -> list[Tensor]:
    return [t._replace(key=t.key.replace(old, new)) for t in tensors]


BLOCK = (("attn.q.weight", (16, 16)), ("attn.k.weight", (16, 16)), ("norm1.weight", (16,)), ("fc.weight", (64, 16)))


def model(blocks: int, front: str = "") -> list[Tensor]:
    tensors = [Tensor(f"{front}stem.weight", (16, 3, 4, 4)), Tensor(f"{front}head.weight", (10, 16))]
    return tensors + [Tensor(f"{front}blocks.{i}.{key}", shape) for i in range(blocks) for key, shape in BLOCK]


# ---------------------------------------------------------------- the bundled truth


def test_the_bundled_cases_as_a_whole():
    scores = keymap_score.run([keymap_score.BUNDLED])
    assert len(scores) == 76
    assert sum(s.f1 for s in scores) / len(scores) > 0.99
    assert sum(s.full for s in scores) / len(scores) > 0.93
    assert sum(s.wrong_certain for s in scores) / sum(s.certain for s in scores) < 0.001


def test_a_random_order_makes_it_say_less_not_more():
    scores = keymap_score.run([keymap_score.BUNDLED], "random")
    assert sum(s.f1 for s in scores) / len(scores) > 0.95
    assert sum(s.wrong_certain for s in scores) / sum(s.certain for s in scores) < 0.001


@pytest.mark.parametrize("name", ["mixer-weights-for-vit", "swin-weights-for-convnext"])
def test_other_models_are_refused(name):
    found = map_keys(*sides(name))
    assert found.refused
    assert not found.pairs


# ---------------------------------------------------------------- one thing at a time


def test_equal_names_are_certain():
    found = map_keys(model(3), model(3))
    assert {p.confidence for p in found.pairs.values()} == {"certain"}
    assert all(p.source == (key,) and p.op == "copy" for key, p in found.pairs.items())
    assert not found.initialised
    assert not found.leftover


def test_a_head_of_another_size_stays_initialised():
    target = [t._replace(shape=(7, 16)) if t.key == "head.weight" else t for t in model(3)]
    found = map_keys(model(3), target)
    assert found.initialised == ("head.weight",)
    assert found.leftover == ("head.weight",)


def test_heads_that_mean_something_else_are_not_exchanged():
    source = [*model(3), Tensor("age.weight", (1, 16)), Tensor("income.weight", (1, 16))]
    target = [*model(3), Tensor("height.weight", (1, 16)), Tensor("weight_kg.weight", (1, 16))]
    found = map_keys(source, target)
    assert set(found.initialised) == {"height.weight", "weight_kg.weight"}
    assert any("left over under other names" in q for q in found.questions)


def test_an_actor_is_no_critic():
    assert not map_keys(model(3, "actor."), model(3, "critic.")).pairs


def test_fused_projections_are_split():
    source = [t for t in model(2) if "attn" not in t.key]
    source += [Tensor(f"blocks.{i}.attn.qkv.weight", (48, 16)) for i in range(2)]
    target = [*model(2), *(Tensor(f"blocks.{i}.attn.v.weight", (16, 16)) for i in range(2))]
    pairs = map_keys(source, target).pairs
    assert [pairs[f"blocks.1.attn.{r}.weight"].op for r in "qkv"] == ["split:0:0/3", "split:0:1/3", "split:0:2/3"]
    assert pairs["blocks.1.attn.k.weight"].source == ("blocks.1.attn.qkv.weight",)


def test_what_is_not_wanted_is_left_out():
    source = renamed(model(3), "stem", "entry")
    found = map_keys(source, [t._replace(shape=t.shape[::-1]) if t.key.endswith("fc.weight") else t for t in model(3)])
    turned = [key for key, p in found.pairs.items() if p.op == "transpose"]
    less = kept(found, drop=["transpose"])
    assert turned
    assert set(found.pairs) - set(less.pairs) == set(turned)
    assert set(turned) <= set(less.initialised)
    assert all(p.confidence == "certain" for p in kept(found, only="certain").pairs.values())


# ---------------------------------------------------------------- for any listing

NAMES = sorted(CASES)
SMALL = [n for n in NAMES if len(CASES[n]["source"]) < 250 and len(CASES[n]["target"]) < 250]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(SMALL))
def test_a_source_is_used_for_one_target_or_for_parts_of_it(name):
    """Copies are injective but for weights that the truth shares as well, and those are never called certain."""
    truth = Counter(s for fact in CASES[name]["truth"].values() for s in fact["from"])
    seen: dict[str, str] = {}
    for p in map_keys(*sides(name)).pairs.values():
        if p.op == "copy":
            other = seen.setdefault(p.source[0], p.target)
            assert other == p.target or truth[p.source[0]] > 1
            assert other == p.target or p.confidence != "certain"


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(SMALL))
def test_what_is_certain_is_not_denied_from_the_other_side(name):
    source, target = sides(name)
    there, back = map_keys(source, target).pairs, map_keys(target, source).pairs
    for key, p in there.items():
        if p.op == "copy" and p.confidence == "certain" and p.source[0] in back and back[p.source[0]].op == "copy":
            assert back[p.source[0]].source == (key,)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(SMALL), st.integers(1, 5))
def test_keys_that_belong_to_nothing_change_nothing(name, count):
    source, target = sides(name)
    more = [*source, *(Tensor(f"zz_unrelated.part{i}.thing", (7919 + i, 3)) for i in range(count))]
    plain, other = map_keys(source, target), map_keys(more, target)
    assert {k: p.source for k, p in plain.pairs.items()} == {k: p.source for k, p in other.pairs.items()}


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.sampled_from(["", "net.", "model.encoder."]), st.booleans())
def test_swapping_the_sides_is_the_inverse(blocks, front, wrapped):
    source, target = model(blocks), renamed(model(blocks, front), "blocks", "stages" if wrapped else "blocks")
    there, back = map_keys(source, target), map_keys(target, source)
    assert {(p.source[0], k) for k, p in there.pairs.items()} == {(k, p.source[0]) for k, p in back.pairs.items()}
    assert len(there.pairs) == len(target)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.integers(n, 5).flatmap(
            lambda m: st.lists(st.lists(st.integers(0, 20), min_size=m, max_size=m), min_size=n, max_size=n)
        )
    )
)
def test_the_assignment_is_the_cheapest(cost):
    chosen = assign([[float(c) for c in row] for row in cost])
    assert len(set(chosen)) == len(chosen)
    best = min(
        sum(cost[row][column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(len(cost[0])), len(cost))
    )
    assert sum(cost[row][column] for row, column in enumerate(chosen)) == best


def test_more_rows_than_columns_leave_rows_out():
    assert assign([[3.0], [1.0], [2.0]]) == [-1, 0, -1]
    assert assign([]) == []


# ---------------------------------------------------------------- what was found out the hard way


def test_two_copies_of_one_model_are_not_mixed():
    source = [*model(3, "student."), *model(3, "teacher.")]
    found = map_keys(source, model(3))
    assert {p.source[0].split(".")[0] for p in found.pairs.values()} == {"student"}
    assert len(found.leftover) == len(model(3))


def test_an_average_alone_is_taken():
    found = map_keys(model(3, "ema."), model(3))
    assert len(found.pairs) == len(model(3))


def test_attention_with_all_three_and_attention_with_two_in_one_block():
    plain = [("stem.weight", (16, 3, 4, 4)), ("head.weight", (10, 16))]
    mine = [
        ("attn.qkv", (48, 16)),
        ("attn.proj", (16, 16)),
        ("cross.q", (16, 16)),
        ("cross.kv", (32, 16)),
        ("cross.proj", (16, 16)),
    ]
    theirs = [(f"attn{n}.to_{r}", (16, 16)) for n in (1, 2) for r in ("q", "k", "v", "out.0")]
    source = [Tensor(k, s) for k, s in plain] + [Tensor(f"blocks.{i}.{k}.weight", s) for i in range(3) for k, s in mine]
    target = [Tensor(k, s) for k, s in plain] + [
        Tensor(f"blocks.{i}.{k}.weight", s) for i in range(3) for k, s in theirs
    ]
    pairs = map_keys(source, target).pairs
    assert pairs["blocks.2.attn1.to_v.weight"].op == "split:0:2/3"
    assert pairs["blocks.2.attn2.to_v.weight"].op == "split:0:1/2"
    assert pairs["blocks.2.attn2.to_q.weight"].op == "copy"


def test_a_list_beside_one_that_has_moved_is_doubted():
    def pyramid(levels: list[int]) -> list[Tensor]:
        out = [Tensor(f"body.{i}.weight", (8 * (i + 1), 3)) for i in range(8)]
        out += [Tensor(f"fpn.inner.{i}.weight", (4, n)) for i, n in enumerate(levels)]
        return out + [Tensor(f"fpn.outer.{i}.weight", (4, 4, 3, 3)) for i in range(len(levels))]

    found = map_keys(pyramid([10, 20, 40, 80]), pyramid([20, 40, 80]))
    doubted = [p for key, p in found.pairs.items() if key.startswith("fpn.outer")]
    assert "certain" not in {p.confidence for p in doubted}
    same = map_keys(pyramid([10, 20, 40, 80]), pyramid([10, 20, 40]))
    assert {p.confidence for p in same.pairs.values()} == {"certain"}


# ---------------------------------------------------------------- rules of a person


def test_rules_say_what_goes_where_as_far_as_shapes_allow():
    from relight.facts.mapper.rules import Rule

    source, target = (
        [Tensor("old.0.w", (4,)), Tensor("old.1.w", (5,))],
        [Tensor("new.1.w", (4,)), Tensor("new.2.w", (4,))],
    )
    found = by_rules([Rule(("old.{a}.",), ("new.{a+1}.",))], source, target)
    assert {k: p.source for k, p in found.pairs.items()} == {"new.1.w": ("old.0.w",)}
    assert found.initialised == ("new.2.w",)
    assert found.questions

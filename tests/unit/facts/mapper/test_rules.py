"""Rewrite rules: they regenerate what they were learnt from, survive a file, and say what is wrong with them."""

from __future__ import annotations

import functools

import pytest
from test_mapping import CASES, sides

from relight.core.errors import UsageError
from relight.facts.mapper.learning import learn
from relight.facts.mapper.mapping import map_keys
from relight.facts.mapper.pairs import Pair
from relight.facts.mapper.rule_files import dump, parse
from relight.facts.mapper.rules import Rule, apply, rewrite, unsound


def copies(pairs: dict[str, str]) -> list[Pair]:
    return [Pair(target, (source,), "copy", "certain", "") for source, target in pairs.items()]


def shown(pairs: list[Pair], keys: list[str] = ()) -> list[str]:
    return [str(r) for r in learn(pairs, keys)]


@functools.cache
def mapped(name: str):
    return map_keys(*sides(name))


@pytest.mark.parametrize("name", sorted(n for n in CASES if len(CASES[n]["target"]) < 400))
def test_rules_give_the_pairs_again(name):
    source, target = sides(name)
    found = mapped(name)
    keys = [s.key for s in source]
    rules = parse(dump(learn(found.pairs.values(), keys, found.initialised))) if found.pairs else []
    given = apply(rules, keys, [t.key for t in target])
    again = sum(given.get(key) == (p.source, p.op) for key, p in found.pairs.items())
    assert again >= 0.995 * len(found.pairs)
    assert not found.pairs or not set(given) & set(found.initialised)


def test_the_bundled_cases_need_few_rules():
    counts = []
    for name in CASES:
        pairs = mapped(name).pairs
        if pairs:
            counts.append(len(learn(pairs.values(), [s.key for s in sides(name)[0]])))
    assert sum(counts) / len(counts) < 8


def test_numbers_that_move_are_one_rule():
    pairs = copies({f"layer.{i}.{leaf}": f"stages.{i + 1}.{leaf}" for i in range(4) for leaf in "wb"})
    assert shown(pairs) == ["layer.{a}. -> stages.{a+1}."]


def test_names_that_stay_need_no_rule():
    pairs = copies({"a.w": "a.w", "b.w": "b.w", "head.w": "classifier.w", "head.b": "classifier.b"})
    assert shown(pairs) == ["head. -> classifier."]


def test_a_flat_list_of_blocks_becomes_stages_by_one_list():
    stages = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    names = {"a": "first", "b": "second"}
    pairs = copies(
        {f"features.{n}.{m}.w": f"stages.{s}.{b}.{t}.w" for n, (s, b) in enumerate(stages) for m, t in names.items()}
    )
    assert shown(pairs) == [
        "features.{a:0,1,2,3,4,5}. -> stages.{a:0,0,1,1,1,2}.{a:0,1,0,1,2,0}.",
        "*a. -> *first.",
        "*b. -> *second.",
    ]  # fmt: skip


def test_blocks_that_count_backwards():
    pairs = copies({f"up.{i}.conv.w": f"ups.{5 - i}.conv.w" for i in range(6)})
    assert shown(pairs) == ["up.{a}. -> ups.{5-a}."]


def test_a_word_that_changes_everywhere_is_one_rule():
    pairs = copies(
        {f"net/layer_{i}/{n}/kernel": f"net.layer.{i}.{n}.weight" for i in range(3) for n in ("a", "b", "c")}
    )
    assert len(learn(pairs)) <= 3


def test_what_is_left_over_gets_nobodys_name():
    pairs = copies({"net.0.w": "body.0.w", "net.1.w": "body.1.w"})
    keys = ["net.0.w", "net.1.w", "ema.0.w"]
    given = apply(learn(pairs, keys), keys)
    assert given["body.0.w"] == (("net.0.w",), "copy")
    assert given["body.1.w"] == (("net.1.w",), "copy")


def test_what_stands_in_the_way_is_left_out():
    pairs = copies({f"layers.{i}.w": f"layers.{i - 1}.w" for i in range(1, 5)})
    keys = [f"layers.{i}.w" for i in range(5)]
    rules = learn(pairs, keys)
    assert apply(rules, keys) == {p.target: (p.source, p.op) for p in pairs}
    assert str(rules[0]) == "layers.0. -> (left out)"


def test_a_key_of_the_same_name_that_was_not_taken_is_left_out():
    pairs = copies({"body.w": "net.w"})
    rules = learn(pairs, ["body.w", "head.w"], ["head.w"])
    assert set(apply(rules, ["body.w", "head.w"])) == {"net.w"}


def test_several_sources_and_several_parts():
    pairs = [
        Pair("b.0.qkv", ("b.0.q", "b.0.k"), "concat:0", "certain", ""),
        Pair("b.0.gate", ("b.0.both",), "split:0:0/2", "certain", ""),
        Pair("b.0.up", ("b.0.both",), "split:0:1/2", "certain", ""),
    ]
    keys = ["b.0.q", "b.0.k", "b.0.both"]
    assert apply(learn(pairs, keys), keys) == {p.target: (p.source, p.op) for p in pairs}


def test_a_tensor_that_is_taken_apart_is_one_rule():
    pairs = [
        Pair(f"l.{i}.{r}.{leaf}", (f"l.{i}.qkv.{leaf}",), f"slice:0:{a}:{b}", "certain", "")
        for i in range(3)
        for leaf in ("weight", "bias")
        for r, a, b in (("q", 0, 8), ("k", 8, 10), ("v", 10, 12))
    ]
    assert shown(pairs) == ["*qkv. -> *q. | *k. | *v.  [slice:0:8,2,2]"]
    keys = sorted({p.source[0] for p in pairs})
    assert apply(learn(pairs), keys) == {p.target: (p.source, p.op) for p in pairs}


def test_experts_are_put_together_by_one_rule_whatever_their_number():
    pairs = [
        Pair(
            f"l.{i}.experts.down",
            tuple(f"l.{i}.experts.{e}.w2.weight" for e in range(12)),
            "stack:0",
            "likely",
            "",
        )
        for i in range(2)
    ]
    keys = sorted(s for p in pairs for s in p.source)  # 10 before 2
    rules = learn(pairs, keys)
    assert [str(r) for r in rules] == ["*experts.{*}.w2.weight -> *experts.down  [stack:0]"]
    assert apply(rules, keys) == {p.target: (p.source, p.op) for p in pairs}


def test_a_tensor_that_the_model_shares_comes_last():
    pairs = copies({"wte.weight": "body.embed.weight"})
    pairs.append(Pair("lm_head.weight", ("wte.weight",), "copy", "likely", ""))
    rules = learn(pairs)
    assert apply(rules, ["wte.weight"]) == {p.target: (p.source, p.op) for p in pairs}
    assert len(rules[-1].target) == 2


def test_names_without_dots_find_their_dots_again():
    names = [f"blocks.{i}.attn.{r}.weight" for i in range(3) for r in "qkv"]
    pairs = copies({"ema." + n.replace(".", ""): "model." + n for n in names})
    rules = learn(pairs)
    assert [str(r) for r in rules] == ["ema.{undotted} -> model.{dotted}"]
    keys = [p.source[0] for p in pairs]
    assert apply(rules, keys, [p.target for p in pairs]) == {p.target: (p.source, p.op) for p in pairs}


@pytest.mark.parametrize(
    ("source", "target", "key", "made"),
    [
        ("a.{a}.", "b.{a-1}.", "a.3.w", "b.2.w"),
        ("a.{a}.", "b.{a-1}.", "a.0.w", None),
        ("a.{a:1,3}.", "b.{a:0,1}.", "a.3.w", "b.1.w"),
        ("a.{a:1,3}.", "b.{a:0,1}.", "a.2.w", None),
        ("a.{a:1,3}.", "b.{a:0,1}.", "a.13.w", None),
        ("a.{a}.{b}.", "b.{a*4+b}.", "a.2.3.w", "b.11.w"),
        ("a.{a:0,1}.{b}.", "b.{a:0,3+b}.", "a.1.2.w", "b.5.w"),
        ("a.{a}.", "b.{3-a}.", "a.4.w", None),
        ("*ln.", "*norm.", "x.ln.w", "x.norm.w"),
        ("*ln.", "*norm.", "x.lns.w", None),
        ("*ln.", "*norm.", "x.aln.w", None),
        ("*/*", "*.*", "a/b/c", "a.b.c"),
        ("w", "weight", "w", "weight"),
        ("", "net.", "a.w", "net.a.w"),
    ],
)
def test_what_a_rule_makes_of_a_key(source, target, key, made):
    rule = Rule((source,), (target,))
    assert unsound(rule) is None
    assert rewrite(rule, key) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no [[rule]]"),
        ("[[rule", "no TOML"),
        ("[[rule]]\nsource = 3\ntarget = 'a'", "rule 1 is not of the form"),
        ("[[rule]]\nsource = 'a'\ntarget = 'b'\nwhy = 'c'", "rule 1 is not of the form"),
        ("[[rule]]\nsource = '{a}.{a}.'\ntarget = '{a}.'", "one name stands for two numbers"),
        ("[[rule]]\nsource = '{a}.'\ntarget = '{b}.'", "{b} does not stand in"),
        ("[[rule]]\nsource = '{a-1}.'\ntarget = '{a}.'", "belongs into the target"),
        ("[[rule]]\nsource = '{x y}.'\ntarget = 'a.'", "is no number"),
        ("[[rule]]\nsource = '*a.'\ntarget = 'b.'", "on both sides or on none"),
        ("[[rule]]\nsource = ['a', 'b']\ntarget = ['c', 'd']", "several targets at once"),
    ],
)
def test_rules_that_cannot_be(text, said):
    with pytest.raises(UsageError, match=said.replace("[", r"\[").replace("{", r"\{")):
        parse(text)

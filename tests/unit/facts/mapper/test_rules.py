"""Rewrite rules: they regenerate what they were learnt from, survive a file, and say what is wrong with them."""

from __future__ import annotations

import pytest
from test_mapping import CASES, sides

from relight.core.errors import UsageError
from relight.facts.mapper.mapping import map_keys
from relight.facts.mapper.pairs import Pair
from relight.facts.mapper.rule_files import dump, parse
from relight.facts.mapper.rules import KEEP, Rule, apply, learn


def copies(pairs: dict[str, str]) -> list[Pair]:
    return [Pair(target, (source,), "copy", "certain", "") for source, target in pairs.items()]


@pytest.mark.parametrize("name", sorted(n for n in CASES if len(CASES[n]["target"]) < 400))
def test_rules_give_the_pairs_again(name):
    source, target = sides(name)
    found = map_keys(source, target)
    keys = [s.key for s in source]
    rules = parse(dump(learn(found.pairs.values(), keys))) if found.pairs else []
    given = apply(rules, keys)
    again = sum(given.get(key) == (p.source, p.op) for key, p in found.pairs.items())
    assert again >= 0.98 * len(found.pairs)


def test_numbers_that_move_are_one_rule():
    pairs = copies({f"layer.{i}.{leaf}": f"stages.{i + 1}.{leaf}" for i in range(4) for leaf in "wb"})
    assert [str(r) for r in learn(pairs)] == ["layer.{a}. -> stages.{a+1}."]


def test_names_that_stay_are_one_rule():
    pairs = copies({"a.w": "a.w", "b.w": "b.w", "head.w": "classifier.w", "head.b": "classifier.b"})
    assert learn(pairs) == [Rule(("head.",), "classifier."), KEEP]


def test_what_is_left_over_gets_nobodys_name():
    pairs = copies({"net.0.w": "body.0.w", "net.1.w": "body.1.w"})
    keys = ["net.0.w", "net.1.w", "ema.0.w"]
    assert set(apply(learn(pairs, keys), keys)) == {"body.0.w", "body.1.w"}


def test_several_sources_and_several_parts():
    pairs = [
        Pair("b.0.qkv", ("b.0.q", "b.0.k"), "concat:0", "certain", ""),
        Pair("b.0.gate", ("b.0.both",), "split:0:0/2", "certain", ""),
        Pair("b.0.up", ("b.0.both",), "split:0:1/2", "certain", ""),
    ]
    keys = ["b.0.q", "b.0.k", "b.0.both"]
    assert apply(learn(pairs, keys), keys) == {p.target: (p.source, p.op) for p in pairs}


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
    ],
)
def test_rules_that_cannot_be(text, said):
    with pytest.raises(UsageError, match=said.replace("[", r"\[").replace("{", r"\{")):
        parse(text)

"""Every rule keeps the contract on every one of its examples; the registry finds all of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import relight.rules
from relight.core.errors import MissingFact, RuleDefinitionError, UsageError
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Phase, Rule, Silent
from relight.rulekit.registry import _checked, all_rules, builtin_rules, matches, rule_named
from relight.testing import facts_of, problems_of_rule, run

CORPUS = Path(__file__).parents[1] / "corpus"
CAUSES = frozenset(json.loads((CORPUS / "causes.json").read_text()))
UNSHOWN = json.loads((CORPUS / "unshown_causes.json").read_text())
RULES = all_rules()
EXAMPLES = [pytest.param(r, e, id=f"{r.code}-{r.name}-{e.name}") for r in RULES for e in r.examples]
FIRES = [p for p in EXAMPLES if isinstance(p.values[1], Fires)]

rules = pytest.mark.parametrize("rule", [pytest.param(r, id=f"{r.code}-{r.name}") for r in RULES])
examples = pytest.mark.parametrize("rule, example", EXAMPLES)
fires = pytest.mark.parametrize("rule, example", FIRES)


@rules
def test_contract(rule):
    assert list(problems_of_rule(rule)) == []


@examples
def test_fires_or_is_silent(rule, example):
    findings = run(rule, example)
    assert bool(findings) is isinstance(example, Fires), [f.message for f in findings]


@rules
def test_causes_are_known(rule):
    assert [c for c in rule.causes if c not in CAUSES] == []


@rules
def test_every_cause_is_shown_by_an_example(rule):
    """Except those that unshown_causes.json names: examples that are still to be written. It may only get shorter."""
    shown = {f.cause for e in rule.examples if isinstance(e, Fires) for f in run(rule, e)}
    unshown = set(UNSHOWN.get(rule.name, ()))
    assert [c for c in rule.causes if c not in shown | unshown] == []
    assert unshown & shown == set(), "take these off the list"


@rules
def test_a_rule_file_is_named_after_its_rule(rule):
    module = rule.__module__.rpartition(".")[2]
    assert module == f"{rule.code.lower()}_{rule.name.replace('-', '_')}"


@rules
def test_a_rule_has_as_many_near_misses_as_it_needs(rule):
    assert sum(isinstance(e, Silent) for e in rule.examples) >= 2


@rules
def test_page(rule):
    assert rule.title()
    assert not rule.title().endswith(".")
    assert rule.page().startswith(rule.title())
    assert re.fullmatch(r"\d+\.\d+\.\d+", rule.since)


@fires
def test_declared_facts_suffice(rule, example, tmp_path):
    """With the facts in ``needs`` alone the rule never asks for another one."""
    whole = facts_of(example, tmp_path)
    facts = Facts(
        whole.checkpoint,
        whole.question,
        whole._target if rule.needs & {"target", "spec"} else None,
        whole._environment if "environment" in rule.needs else None,
    )
    try:
        list(rule().check(facts))
    except MissingFact as missing:
        pytest.fail(f"asks for {missing.fact}, which is not in needs")


@fires
def test_declared_facts_are_there_when_it_fires(rule, example, tmp_path):
    """The engine asks it: the rule is neither skipped nor gated by another in its own examples."""
    facts = facts_of(example, tmp_path)
    report = diagnose(facts, [rule])
    assert report.skipped == ()
    assert report.crashed == ()
    assert {f.code for f in report.findings} == {rule.code}


@fires
def test_no_rule_crashes_on_the_examples_of_another(rule, example, tmp_path):
    report = diagnose(facts_of(example, tmp_path), RULES)
    assert report.crashed == ()
    assert rule.code in {f.code for f in report.findings}, "another rule took this one's example away"


@fires
def test_what_a_finding_says(rule, example, tmp_path):
    for finding in run(rule, example):
        assert finding.message == finding.message.strip()
        assert not re.search(r"relight fix|--help", finding.message)
        assert "!" not in finding.message
        for text in (*finding.context, *(f.title for f in finding.fixes), *(f.note or "" for f in finding.fixes)):
            assert "\n" not in text
            assert "  " not in text
        for fix in finding.fixes:
            if fix.code is not None:
                assert _compiles(fix.code)
            if fix.command is not None:
                alone = fix.command.startswith("relight fix") and "--rename" not in fix.command
                assert not alone, "the engine puts it beside the edits"


def _compiles(code: str) -> bool:
    """Whole statements, or a part of a class body as it is to be put there."""
    if code.startswith(" "):
        code = "class Yours:\n" + code + ("\n        pass\n" if code.rstrip().endswith(":") else "")
    compile(code, "fix", "exec")
    return True


@examples
def test_deterministic(rule, example):
    assert [f.message for f in run(rule, example)] == [f.message for f in run(rule, example)]


def test_codes_are_in_their_family_and_phase():
    for rule in RULES:
        if rule.code.startswith("RL1"):
            assert rule.phase is Phase.CONTAINER, rule.code
        if rule.code[3] == "9" and rule.code.startswith("RL39"):
            assert rule.phase is Phase.RESIDUAL, rule.code


def test_discovery_finds_every_file():
    folder = Path(relight.rules.__file__).parent
    files = {p.stem.partition("_")[0].upper() for p in folder.glob("rl*.py")}
    assert {r.code for r in builtin_rules()} == files
    assert len(files) >= 35


def test_rules_come_by_code_and_once():
    codes = [r.code for r in RULES]
    assert codes == sorted(set(codes))
    assert len({r.name for r in RULES}) == len(codes)


def _rule(code: str, name: str) -> type[Rule]:
    class Sample(Rule):
        """A sample.

        What it checks
        --------------
        Nothing.

        Why loading fails
        -----------------
        It does not.

        How to fix
        ----------
        Not needed.

        References
        ----------
        None.
        """

        examples = (Fires(name="one"), Silent(name="two"))
        causes = ("layer-added",)

    return type("Copy", (Sample,), {"__doc__": Sample.__doc__, "code": code, "name": name})


@pytest.fixture
def sample(monkeypatch):
    """The base of `_rule` is a Rule without a code: its own check is put off until the copy has one."""
    import relight.rulekit.rule as module

    checked = module._validate
    monkeypatch.setattr(module, "_validate", lambda c: checked(c) if c.__name__ == "Copy" else None)


@pytest.mark.usefixtures("sample")
class TestRegistry:
    @pytest.mark.parametrize("code, name", [("RL303", "something-else"), ("RL999", "layer-added")])
    def test_a_code_or_name_that_is_taken(self, code, name):
        with pytest.raises(RuleDefinitionError, match="is already taken by LayerAdded"):
            _checked([*builtin_rules(), _rule(code, name)])

    def test_a_new_one(self):
        assert _checked([*builtin_rules(), _rule("RL999", "sample-rule")])[-1].code == "RL999"

    @pytest.mark.parametrize(
        "code, name, reason",
        [
            ("RL1", "sample", "is not RL and three digits"),
            ("XX100", "sample", "is not RL and three digits"),
            ("RL998", "Sample", "is not kebab-case"),
            ("RL998", "sample_rule", "is not kebab-case"),
            ("RL998", "rename-keys", "says the cure"),
            ("RL998", "", "name is missing"),
        ],
    )
    def test_names_that_are_none(self, code, name, reason):
        with pytest.raises(RuleDefinitionError, match=reason):
            _rule(code, name)


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"needs": frozenset({"weather"})}, "unknown facts: weather"),
        ({"__doc__": "No headings."}, "no section 'What it checks'"),
        ({"examples": (Fires(name="one"),)}, "at least one Fires and one Silent"),
        ({"examples": (Fires(name="one"), Silent(name="one"))}, "same name"),
        ({"causes": ()}, "causes is missing"),
    ],
)
def test_definitions_that_are_refused(changes, reason):
    whole = _rule("RL997", "whole-rule")
    attributes = {"__doc__": whole.__doc__, "code": "RL998", "name": "sample-rule", **changes}
    with pytest.raises(RuleDefinitionError, match=re.escape(reason)):
        type("Copy", (whole,), attributes)


@pytest.mark.parametrize("selector", ["RL303", "rl303", "layer-added", "Layer-Added"])
def test_a_rule_by_code_or_name(selector):
    assert rule_named(selector).code == "RL303"


def test_no_such_rule():
    with pytest.raises(UsageError, match="Did you mean layer-added") as caught:
        rule_named("layer-aded")
    assert "no rule is called 'layer-aded'" in caught.value.message
    with pytest.raises(UsageError, match="relight rules"):
        rule_named("zzzzzzz")


@pytest.mark.parametrize(
    "selector, meant",
    [("RL303", True), ("RL3", True), ("rl", True), ("layer-added", True), ("RL4", False), ("layer", False)],
)
def test_selectors(selector, meant):
    assert matches(rule_named("RL303"), selector) is meant


@pytest.mark.usefixtures("sample")
class TestHarness:
    """The harness itself must be able to fail."""

    def _problems(self, **attributes) -> list[str]:
        base = _rule("RL996", "sample-base")
        made = type("Copy", (base,), {"__doc__": base.__doc__, "code": "RL998", "name": "sample-rule", **attributes})
        return list(problems_of_rule(made))

    def test_a_rule_that_never_fires(self):
        assert self._problems(check=lambda self, facts: iter(())) == ["RL998 is silent on 'one'"]

    def test_a_rule_that_always_fires(self):
        problems = self._problems(check=lambda self, facts: iter([self.finding("it is so")]))
        assert problems == ["RL998 says 'it is so' on the near miss 'two'"]

    def test_a_cause_that_is_not_declared(self):
        problems = self._problems(check=lambda self, facts: iter([self.finding("it is so", cause="other")]))
        assert "RL998 on 'one': cause 'other' is not declared" in problems

    def test_another_cause_than_expected(self):
        problems = self._problems(
            check=lambda self, facts: iter([self.finding("it is so")]),
            examples=(Fires(name="one", cause="other"), Silent(name="two")),
        )
        assert "RL998 on 'one': cause 'layer-added', expected 'other'" in problems

    def test_a_message_with_a_full_stop(self):
        problems = self._problems(check=lambda self, facts: iter([self.finding("It is so.")]))
        assert "RL998 on 'one': a message is one line without a full stop" in problems

    def test_a_finding_under_another_code(self):
        problems = self._problems(
            check=lambda self, facts: iter([replace(self.finding("it is so"), code="RL303")]),
        )
        assert "RL998 on 'one': the finding has another rule's code" in problems


def test_recipes_are_read_back_as_written(tmp_path):
    facts = facts_of(Fires(name="x", file=File(tensors={"a.weight": (2, 3), "b": ()}, hparams={"n": 1})), tmp_path)
    assert [(t.key, t.shape, t.dtype) for t in facts.checkpoint.tensors] == [
        ("a.weight", (2, 3), "float32"),
        ("b", (), "float32"),
    ]
    assert facts.checkpoint.problems == ()

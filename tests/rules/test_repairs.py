"""Every fix that relight can carry out itself: carried out, its finding is gone, nothing has come up, and it is done once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from repairing import rows

from relight.core.edits import ConvertTensors
from relight.core.finding import Applicability
from relight.core.target import Intent
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.reader import open_checkpoint
from relight.repair import planner, proof
from relight.repair.rewriter import digest_of, rewrite
from relight.rulekit import Fires
from relight.rulekit.registry import all_rules
from relight.testing import facts_of

RULES = all_rules()


def _asked(facts, path):
    """The same question about another file."""
    question = replace(facts.question, path=str(path))
    return diagnose(Facts(open_checkpoint(path), question, facts._target, facts._environment), RULES)


def _repairs(tmp_path_factory):
    for rule in RULES:
        for number, example in enumerate(rule.examples):
            if isinstance(example, Fires):
                folder = tmp_path_factory / f"{rule.code}-{number}"
                folder.mkdir()
                report = diagnose(facts_of(example, folder), RULES)
                own = [f for f in report.findings if f.code == rule.code]
                for i, fix in enumerate(fix for f in own for fix in f.fixes):
                    if fix.edits:
                        yield pytest.param(rule, example, i, id=f"{rule.code}-{rule.name}-{example.name}-{i}")


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as name:
            metafunc.parametrize("rule, example, number", list(_repairs(Path(name))))


def test_carried_out(rule, example, number, tmp_path):
    facts = facts_of(example, tmp_path)
    report = diagnose(facts, RULES)
    finding, fix = [(f, x) for f in report.findings if f.code == rule.code for x in f.fixes][number]
    if fix.applicability is not Applicability.SAFE:
        assert fix.allow is not None, "what is not safe has a name to be allowed by"
    allow = [] if fix.allow is None else [fix.allow]
    path, copy = tmp_path / "model.ckpt", tmp_path / "copy.ckpt"
    plan = planner.plan(report, digest_of(str(path)), allow)
    assert finding.message in {c.message for c in plan.chosen}
    before = path.read_bytes()
    written = rewrite(plan, str(path), str(copy))
    assert path.read_bytes() == before
    if fix.applicability is Applicability.SAFE and not allow:
        values = sorted(row[5] for row in rows(path).values())
        after = {row[5] for row in rows(copy).values()}
        if any(
            isinstance(e, ConvertTensors) for e in plan.edits
        ):  # parts of what is put together are in it as they were
            assert all(any(value in whole for whole in after) for value in values)
            assert sum(map(len, after)) <= sum(map(len, values))
        else:
            assert after == set(values), "no value changes or is lost"
    if facts._target is not None and facts._target.failure is not None:
        return  # a recipe's failure to be built is as it is written down, whatever the file says
    if fix.allow == "renamed-argument":
        return  # and its model is not built again with the argument
    after = _asked(facts, copy)
    receipt = proof.receipt(plan, written, proof.compared(written, str(path), whole=True), before=report, after=after)
    assert receipt.holds, receipt.checks
    if {c.title for c in plan.chosen} == {fix.title.rstrip(":")}:
        assert receipt.proved is (fix.applicability is Applicability.SAFE), "what is not safe is not called proved"
    again = planner.plan(after, digest_of(str(copy)))
    assert {c.message for c in again.chosen}.isdisjoint({c.message for c in plan.chosen}), "done once, it is done"


def test_what_is_safe_is_done_unasked_and_nothing_else(rule, example, number, tmp_path):
    facts = facts_of(example, tmp_path)
    report = diagnose(facts, RULES)
    fix = [x for f in report.findings if f.code == rule.code for x in f.fixes][number]
    plan = planner.plan(report, digest_of(str(tmp_path / "model.ckpt")))
    chosen = {c.title for c in plan.chosen}
    assert (fix.title.rstrip(":") in chosen) is (fix.applicability is Applicability.SAFE)


def test_the_command_says_it_all(rule, example, number, tmp_path):
    facts = facts_of(example, tmp_path)
    fix = [x for f in diagnose(facts, RULES).findings if f.code == rule.code for x in f.fixes][number]
    assert fix.command.startswith("relight fix ")
    assert f"-o {facts.question.fixed_path()}" in fix.command
    assert ("--allow" in fix.command) is (fix.allow is not None)
    if example.intent != Intent():
        assert " --" in fix.command

"""Everything that relight prints to be pasted is pasted: programs that write a copy, calls with other arguments."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from pasted import call_in, can_be_pasted, fill, paste, rows_of, state_of
from real_models import attempt, can_be_asked, load_for_real, real_class, with_model

from relight.core.finding import Applicability, FixKind, Severity, Stage
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.reader import open_checkpoint
from relight.rulekit import Fires
from relight.rulekit.registry import all_rules
from relight.testing import facts_of

RULES = all_rules()


def _report(example, folder):
    """The answer on the file that lies in the folder, and the rule's own findings."""
    facts = facts_of(example, folder / "elsewhere")
    question = _with_spec(replace(facts.question, path="model.ckpt"), facts, folder)
    return diagnose(Facts(open_checkpoint(folder / "model.ckpt"), question, facts._target, facts._environment), RULES)


def _with_spec(question, facts, folder):
    """The question with a target that a pasted program can name: the recipe's model, as a spec."""
    if facts._target is None or facts._target.spec is None:
        return question
    spec = folder / "model.spec.json"
    spec.write_text(json.dumps(facts._target.spec.to_dict()), encoding="utf-8")
    return replace(question, target=str(spec))


def _needs_a_real_constructor(report, fix) -> bool:
    """A call that passes an argument which would change shapes: recipes ignore it, the scenarios have such classes."""
    first = report.prediction
    return (
        fix.kind is FixKind.LOAD_ARGUMENT
        and first is not None
        and first.stage is Stage.LOAD_STATE_DICT
        and "strict=" not in (fix.code or "")
    )


def _fixes():
    """All that can be pasted. Found by asking the rules, so that none is left out."""
    for rule in RULES:
        for example in rule.examples:
            if not (isinstance(example, Fires) and can_be_asked(example)):
                continue
            example = with_model(example)
            with tempfile.TemporaryDirectory() as name:
                report = diagnose(facts_of(example, Path(name)), RULES)
            own = [f for f in report.findings if f.code == rule.code]
            for i, fix in enumerate(fix for f in own for fix in f.fixes):
                if can_be_pasted(fix) and not _needs_a_real_constructor(report, fix):
                    yield pytest.param(rule, example, i, fix, id=f"{rule.code}-{rule.name}-{example.name}-{i}")


FIXES = list(_fixes())
# Those that write a copy which loads with the same arguments.
COPIES: set[str] = {p.id for p in FIXES if p.values[3].kind is FixKind.FILE and call_in(p.values[3].note) is None}
FIXES = [pytest.param(*p.values[:3], id=p.id) for p in FIXES]


@pytest.mark.parametrize("rule, example, number", FIXES)
def test_pasted(rule, example, number, folder):
    (folder / "elsewhere").mkdir()
    path = folder / "model.ckpt"
    on_cpu = all(s.device == "cpu" for s in facts_of(example, folder).checkpoint.storages.values())
    filled = (
        on_cpu and example.file.protocol == 2 and not example.file.tar and fill(path)
    )  # it writes the file anew, with protocol 2
    original = path.read_bytes()
    report = _report(example, folder)
    own = [f for f in report.findings if f.code == rule.code]
    fix = [fix for f in own for fix in f.fixes][number]
    cls = real_class(example.model, folder)
    import torch

    namespace = {"MyModel": cls, "torch": torch}
    done = attempt(paste, fix.code, namespace)
    assert done.error is None, str(done)
    assert path.read_bytes() == original, "the user's file stays as it is"

    if fix.kind is FixKind.FILE:
        copy = folder / "model.fixed.ckpt"
        call = call_in(fix.note)
        loaded = (
            load_for_real(cls, copy, example.intent, under=example.file.under)
            if call is None
            else attempt(paste, call, namespace)
        )
        assert loaded.error is None, str(loaded)
        if filled and fix.applicability is Applicability.SAFE:
            assert rows_of(state_of(copy)) == rows_of(state_of(path, example.file.under))
        model, stored = loaded.result, state_of(copy)
    else:
        model, stored = done.result, None
        model = namespace.get("model", model)
        if isinstance(model, dict):  # torch.load
            fresh = cls()
            fresh.load_state_dict(model.get(example.file.under, model))
            model = fresh
        if filled:
            stored = state_of(path, example.file.under)
    assert isinstance(model, cls)
    if stored is not None:
        for key, tensor in model.state_dict().items():
            if key in stored:
                assert torch.equal(tensor, stored[key]), key


@pytest.mark.parametrize("rule, example, number", [p for p in FIXES if p.id in COPIES])
def test_a_corrected_copy_is_not_ill_any_more(rule, example, number, folder):
    """The same question about the copy: this finding is gone and no new error has come."""
    facts = facts_of(example, folder)
    facts = Facts(facts.checkpoint, _with_spec(facts.question, facts, folder), facts._target, facts._environment)
    report = diagnose(facts, RULES)
    fix = [fix for f in report.findings if f.code == rule.code for fix in f.fixes][number]
    done = attempt(paste, fix.code, {})
    assert done.error is None, str(done)
    copy = facts.question.fixed_path()
    question = replace(facts.question, path=copy)
    after = diagnose(Facts(open_checkpoint(copy), question, facts._target, facts._environment), RULES)
    before = {f.code for f in report.findings if f.severity is Severity.ERROR}
    assert {f.code for f in after.findings if f.severity is Severity.ERROR} <= before - {rule.code}


def test_there_are_fixes_to_paste():
    assert len(FIXES) >= 45
    assert len(COPIES) >= 30
    assert {p.values[0].code for p in FIXES} >= {
        f"RL{n}" for n in (201, 301, 302, 303, 304, 305, 306, 307, 308, 309, 401, 501, 503, 504, 508, 509, 510, 701)
    }

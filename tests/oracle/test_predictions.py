"""Every example of every rule, given to the real torch and Lightning: no claim and no silence is taken on trust."""

from __future__ import annotations

import pytest
from real_models import Outcome, can_be_asked, holds, load_for_real, real_class, with_model

from relight.core.finding import Severity, Verdict
from relight.engine.diagnose import diagnose
from relight.rulekit import Fires, Silent
from relight.rulekit.registry import all_rules
from relight.testing import facts_of

RULES = all_rules()
ALL = [(r, e) for r in RULES for e in r.examples if can_be_asked(e) and (isinstance(e, Silent) or e.oracle)]


def _params(kind):
    return [
        pytest.param(
            r,
            e,
            id=f"{r.code}-{r.name}-{e.name}",
        )
        for r, e in ALL
        if isinstance(e, kind)
    ]


def _asked(example, folder):
    example = with_model(example)
    report = diagnose(facts_of(example, folder), RULES)
    assert report.crashed == ()
    cls = real_class(example.model, folder)
    return report, load_for_real(cls, folder / "model.ckpt", example.intent, under=example.file.under)


def _says(report) -> str:
    first = report.prediction
    return f"{report.verdict.value}, {first and (first.exception, first.message)}, {[f.name for f in report.findings]}"


@pytest.mark.parametrize("rule, example", _params(Fires))
def test_what_a_finding_predicts_happens(rule, example, folder):
    report, real = _asked(example, folder)
    own = [f for f in report.findings if f.code == rule.code]
    assert own
    assert holds(report, real), f"{_says(report)} but really {real}"
    for finding in own:
        if finding.severity is not Severity.ERROR or finding.predicts is None:
            continue
        if report.prediction is not None and finding.predicts.stage == report.prediction.stage:
            assert real.agrees_with(finding.predicts), f"{finding.predicts} but really {real}"


@pytest.mark.parametrize("rule, example", _params(Silent))
def test_no_false_alarm_and_no_false_promise(rule, example, folder):
    report, real = _asked(example, folder)
    assert holds(report, real), f"{_says(report)} but really {real}"


def test_most_examples_can_be_asked():
    """So that a change of the recipes' defaults does not quietly switch the oracle off."""
    assert len(ALL) >= 120
    assert {r.code for r, e in ALL if isinstance(e, Fires)} >= {
        f"RL{n}" for n in (101, 102, 201, 301, 303, 401, 501, 701)
    }


def test_hardly_any_answer_is_unknown(folder):
    """Else the comparison above would be empty: where nothing is promised nothing can be wrong."""
    unknown = {
        f"{rule.code} {example.name}"
        for rule, example in ALL
        if diagnose(facts_of(with_model(example), folder), RULES).verdict is Verdict.UNKNOWN
    }
    # Here that is the right answer: nothing is known of a forward that is written otherwise and was not asked.
    unknown.discard("RL903 a class of the user's that is called something else: its code is compared")
    assert len(unknown) <= 8, unknown


def test_the_oracle_can_say_no():
    from relight.core.finding import Prediction, Stage

    prediction = Prediction(Stage.LOAD_STATE_DICT, "load_from_checkpoint", "RuntimeError", "no")
    assert Outcome(RuntimeError("no, not so")).agrees_with(prediction)
    assert not Outcome(RuntimeError("yes")).agrees_with(prediction)
    assert not Outcome(ValueError("no")).agrees_with(prediction)
    assert not Outcome(None).agrees_with(prediction)
    assert not Outcome(RuntimeError("no")).agrees_with(None)
    assert Outcome(None).agrees_with(None)

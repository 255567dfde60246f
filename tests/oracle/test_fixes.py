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
from relight.facts import snippets
from relight.facts.facts import Facts
from relight.facts.question import Question
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


# Fixes of a file or of a call that no test here pastes, and why. What is new has to be pasted, or to be listed.
_IN_WORDS = "it says in words what to do with another program"
_COMMAND = "a command: test_torch_on_files.py runs it on a whole file"
_RENAME = "a command: test_resume_after_refactoring.py runs such a one on a whole file"
_GAP = "a call with a gap that only a person can fill"
_SCENARIO = "recipes ignore arguments: test_scenarios.py pastes it, with the class {}"
_SIZED = "recipes ignore arguments: tests/live/test_sized_arguments.py pastes it for real classes"
NOT_PASTED = {
    ("RL101", "compressed once more"): _COMMAND,
    ("RL101", "HDF5, which begins with an opcode of pickles"): _IN_WORDS,
    ("RL101", "ONNX"): _IN_WORDS,
    ("RL101", "the data.pkl of an unpacked checkpoint"): _IN_WORDS,
    ("RL101", "a checkpoint in a tar archive"): _COMMAND,
    ("RL101", "a checkpoint in a zip archive"): _COMMAND,
    ("RL101", "packed again without its folder"): _COMMAND,
    ("RL103", "an HTTP header before the archive"): _COMMAND,
    ("RL201", "a class of the script that saved"): "the script that saved it is not there",
    ("RL302", "two equal branches under new names"): _RENAME,
    ("RL310", "a layer inserted, and two equal ones that it could be"): _RENAME,
    ("RL403", "another width, which is a default of the class"): _SIZED,
    ("RL504", "a LightningDataModule, and the file has only the model's"): _GAP,
    ("RL505", "renamed, and the shapes show it"): _SCENARIO.format("init_arg_renamed_other_default"),
    (
        "RL505",
        "names that have nothing in common, and the shapes show it",
    ): "tests/live/test_renamed_arguments.py pastes it for a real class",
    ("RL517", "a size that does not fit"): _SIZED,
    ("RL704", "a constructor that downloads"): "its class wants the network",
    (
        "RL704",
        "an argument that a closed configuration does not take",
    ): "its recipe holds a plain dict: a test of its own",
}


def _own(example, rule):
    """The rule's own fixes of the file or of the call, with their numbers among all of its fixes."""
    with tempfile.TemporaryDirectory() as name:
        report = diagnose(facts_of(example, Path(name)), RULES)
    fixes = [fix for f in report.findings if f.code == rule.code for fix in f.fixes]
    return [(i, fix) for i, fix in enumerate(fixes) if fix.kind in (FixKind.FILE, FixKind.LOAD_ARGUMENT)]


def _elsewhere():
    """Programs for other environments, and for classes that no recipe stands for: they can be run here all the same."""
    for rule in RULES:
        for example in rule.examples:
            if isinstance(example, Fires) and not can_be_asked(example):
                for i, fix in _own(example, rule):
                    if can_be_pasted(fix) and (rule.code, example.name) not in NOT_PASTED:
                        yield pytest.param(rule, example, i, id=f"{rule.code}-{rule.name}-{example.name}-{i}")


ELSEWHERE = list(_elsewhere())
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


@pytest.mark.parametrize("rule, example, number", ELSEWHERE)
def test_pasted_though_the_question_is_of_another_place(rule, example, number, folder):
    """The program runs, and leaves the file as it is; a call gives what the file holds."""
    import torch

    (folder / "elsewhere").mkdir()
    path = folder / "model.ckpt"
    facts_of(example, folder)
    original = path.read_bytes()
    report = _report(example, folder)
    fix = [fix for f in report.findings if f.code == rule.code for fix in f.fixes][number]
    done = attempt(paste, fix.code, {"MyModel": real_class(with_model(example).model, folder), "torch": torch})
    assert done.error is None, str(done)
    assert path.read_bytes() == original
    if fix.kind is FixKind.FILE:
        torch.load(folder / "model.fixed.ckpt", map_location="cpu", weights_only=False)
    else:
        assert done.result is not None


def test_a_closed_configuration_is_opened(folder):
    import torch
    from omegaconf import OmegaConf

    config = OmegaConf.create({"width": 8})
    OmegaConf.set_struct(config, True)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "hyper_parameters": config}, "model.ckpt")
    facts = Facts(open_checkpoint("model.ckpt"), Question(path="model.ckpt"), None, None)
    paste(snippets.open_struct(facts), {})
    loaded = torch.load("model.fixed.ckpt", weights_only=False)
    assert not OmegaConf.is_struct(loaded["hyper_parameters"])


def test_every_fix_of_a_file_or_a_call_is_pasted_or_listed():
    pasted = {(p.values[0].code, p.values[1].name, p.values[2]) for p in (*FIXES, *ELSEWHERE)}
    missing, listed = set(), set()
    for rule in RULES:
        for example in rule.examples:
            if not isinstance(example, Fires):
                continue
            for i, fix in _own(with_model(example) if can_be_asked(example) else example, rule):
                key = (rule.code, example.name)
                if (*key, i) in pasted or fix.edits:  # tests/rules/test_repairs.py carries edits out
                    continue
                (listed if key in NOT_PASTED else missing).add((*key, fix.title))
    assert missing == set()
    assert {key[:2] for key in listed} == set(NOT_PASTED), "what is pasted by now is listed no longer"


def test_there_are_fixes_to_paste():
    assert len(FIXES) >= 45
    assert len(COPIES) >= 30
    assert {p.values[0].code for p in FIXES} >= {
        f"RL{n}" for n in (201, 301, 302, 303, 304, 305, 306, 307, 308, 309, 401, 501, 503, 504, 508, 509, 510, 701)
    }

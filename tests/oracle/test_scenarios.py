"""Changed models and the files they no longer fit: cause, verdict and exception against what was recorded."""

from __future__ import annotations

import shutil
import sys

import pytest
from corpus import FOLDER, SCENARIOS, agrees, build_all, check_built, classes_on_path, said, working_in
from pasted import call_in, can_be_pasted, paste, state_of
from real_models import attempt, import_file

from relight.core.finding import Applicability, FixKind, Severity
from relight.reader import installed

PATHS = (FOLDER / "scenarios", FOLDER / "sources")
PLAIN = [n for n, s in SCENARIOS.items() if not s["custom_module_replaced_by"]]
# The project's module was changed, not the model: each needs a path of its own.
REPLACED = {"custom_class_removed": None, "custom_class_renamed": None, "enum_value_renamed": "models:RichModel"}
# What is not mended yet. Strict: a test that passes says so.
WRONG_CAUSE: dict[str, str] = {}
# Code with a gap that only a person can fill: a call with `depth=...`, an entry "with a value that the hook can use".
A_PERSON_FILLS = {("hook_needs_key", "Or add the entry in a copy, with a value that the hook can use:")}


@pytest.fixture(scope="module")
def reports():
    """(scenario, weights_only=False or as by default) to the report."""
    out = {}
    with working_in(FOLDER, *PATHS):
        built = build_all(
            {n: (f"scenarios/{n}.py:Model", SCENARIOS[n]["checkpoint"], SCENARIOS[n]["load_kwargs"]) for n in PLAIN}
        )
        for name in PLAIN:
            for weights_only in (None, False):
                out[name, weights_only] = check_built(
                    built[name],
                    SCENARIOS[name]["checkpoint"],
                    init=SCENARIOS[name]["load_kwargs"],
                    weights_only=weights_only,
                )
    return out


@pytest.fixture(scope="module")
def replaced(tmp_path_factory):
    """The same for the scenarios that replace my_custom_module."""
    out = {}
    for name, target in REPLACED.items():
        scenario = SCENARIOS[name]
        folder = tmp_path_factory.mktemp(name)
        shutil.copyfile(FOLDER / scenario["custom_module_replaced_by"], folder / "my_custom_module.py")
        with working_in(FOLDER, folder, *PATHS):
            built = None
            if target is not None:
                built = build_all({name: (target, scenario["checkpoint"], {})})[name]
            environment = None if target is not None else installed.environment_of(sys.executable)
            for weights_only in (None, False):
                out[name, weights_only] = check_built(
                    built, scenario["checkpoint"], environment=environment, weights_only=weights_only
                )
    return out


@pytest.fixture
def report_of(request):
    def get(name, weights_only):
        which = "replaced" if name in REPLACED else "reports"
        return request.getfixturevalue(which)[name, weights_only]

    return get


def _names(where, known):
    return [
        pytest.param(n, marks=[pytest.mark.xfail(strict=True, reason=known[n])] if n in known else [])
        for n, s in SCENARIOS.items()
        if (s["shows_in"] == "load") is where
    ]


@pytest.mark.parametrize("name", _names(True, WRONG_CAUSE))
def test_cause(name, report_of):
    report = report_of(name, False)
    assert report.crashed == ()
    assert report.findings, said(report)
    assert report.findings[0].cause in SCENARIOS[name]["accept"], said(report)


@pytest.mark.parametrize("name", _names(True, {}))
def test_verdict(name, report_of):
    assert report_of(name, False).verdict.value == SCENARIOS[name]["verdict"], said(report_of(name, False))


@pytest.mark.parametrize("name", _names(False, {}))
def test_no_false_alarm(name, report_of):
    """Nothing can be seen in a load here: an error would be wrong."""
    for weights_only in (None, False):
        report = report_of(name, weights_only)
        assert [f.name for f in report.findings if f.severity is Severity.ERROR] == [], said(report)


@pytest.mark.parametrize(
    "name, call",
    [(n, c) for n, s in SCENARIOS.items() for c in s["actual"]],
    ids=lambda v: v.removeprefix("load_from_"),
)
def test_what_was_predicted_was_recorded(name, call, report_of):
    report = report_of(name, False if call.endswith("_False") else None)
    assert agrees(report, SCENARIOS[name]["actual"][call]), said(report)


def test_the_records_are_of_both_kinds():
    outcomes = [a["ok"] for s in SCENARIOS.values() for a in s["actual"].values()]
    assert len(outcomes) >= 95
    assert sum(outcomes) >= 30
    assert len(outcomes) - sum(outcomes) >= 50


# ------------------------------------------------------------------ fixes, pasted


@pytest.fixture(scope="module")
def pasted_fixes(reports, tmp_path_factory):
    """(scenario, title of the fix) to (fix, what running it did, original state, corrected or loaded model)."""
    import torch

    out = {}
    folder = tmp_path_factory.mktemp("pasted")
    with working_in(folder, *PATHS), classes_on_path(*PATHS):
        for name in PLAIN:
            scenario = SCENARIOS[name]
            file = scenario["checkpoint"]
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            cls = import_file(FOLDER / "scenarios" / f"{name}.py").Model
            report = reports[name, None]
            errors = [f for f in report.findings if f.severity is Severity.ERROR]
            for finding in report.findings:
                for fix in finding.fixes:
                    if not can_be_pasted(fix):
                        continue
                    shutil.copyfile(FOLDER / file, folder / file)
                    namespace = {"Model": cls, "MyModel": cls, "torch": torch}
                    done = attempt(paste, fix.code, namespace)
                    model = namespace.get("model", done.result)
                    if done.error is None and fix.kind is FixKind.FILE:
                        call = call_in(fix.note)
                        copy = folder / file.replace(".ckpt", ".fixed.ckpt")
                        done = (
                            attempt(paste, call, namespace)
                            if call
                            else attempt(cls.load_from_checkpoint, copy, **scenario["load_kwargs"])
                        )
                        model = done.result
                        copy.unlink()
                    alone = len(errors) <= 1
                    out[name, fix.title] = (fix, done, model, alone)
    return out


def test_pasted_code_of_real_models_works(pasted_fixes):
    failed = {
        key: str(done)
        for key, (fix, done, _, alone) in pasted_fixes.items()
        if alone and done.error is not None and "..." not in (fix.code or "") and key not in A_PERSON_FILLS
    }
    assert failed == {}
    assert len(pasted_fixes) >= 20


def test_safe_fixes_put_every_tensor_where_it_belongs(pasted_fixes):
    """The true key map is recorded: the loaded model holds, bit for bit, the tensors that it names."""
    import torch

    renamed = 0
    for (name, title), (fix, done, model, _) in pasted_fixes.items():
        scenario = SCENARIOS[name]
        if fix.applicability is not Applicability.SAFE or fix.kind is not FixKind.FILE or done.error is not None:
            continue
        loaded, renames = model.state_dict(), scenario["key_map"]
        for key, tensor in state_of(FOLDER / scenario["checkpoint"]).items():
            prefix = max((o for o in renames if key.startswith(o)), key=len, default=None)
            new = key if prefix is None else renames[prefix] + key[len(prefix) :]
            if new in loaded:
                assert torch.equal(loaded[new], tensor), f"{name}, {title}: {key} -> {new}"
                renamed += new != key
    assert renamed >= 10


# ------------------------------------------------------------------ edits, carried out

# What has to be allowed, and the class that was saved where its outputs are to be the same; None where they cannot be.
CARRIED_OUT = {
    "layer_renamed": ((), "models:ConvNet"),
    "qkv_fused": ((), "scenario_models:AttnNet"),
    "same_shape_rename_ambiguous": ((), "scenario_models:AttnNet"),
    "weight_norm_removed": (("fold-weights",), "scenario_models:WeightNormNet"),
    "transposed_weights": (("turned-weights",), "models:PlainMLP"),
    "pos_embedding_longer": (("resize-positions",), "scenario_models:VocabNet"),
    "vocab_grown": (("grow-vocabulary",), None),
    "num_classes_changed": (("new-head",), None),
}


@pytest.mark.parametrize("name", CARRIED_OUT)
def test_carried_out(name, reports, tmp_path):
    """The copy loads strictly into the changed class and answers what the saved one does; no guess is called proved."""
    import torch

    from relight.repair import planner, proof
    from relight.repair.rewriter import digest_of, rewrite

    allow, original = CARRIED_OUT[name]
    scenario = SCENARIOS[name]
    path, copy = str(FOLDER / scenario["checkpoint"]), tmp_path / "copy.ckpt"
    plan = planner.plan(reports[name, None], digest_of(path), allow)
    written = rewrite(plan, path, str(copy))
    receipt = proof.receipt(plan, written, proof.compared(written, path, whole=True))
    assert receipt.holds, receipt.checks
    assert receipt.proved is (not allow)
    with working_in(FOLDER, *PATHS), classes_on_path(*PATHS):
        cls = import_file(FOLDER / "scenarios" / f"{name}.py").Model
        done = attempt(cls.load_from_checkpoint, copy, **scenario["load_kwargs"])
        assert done.error is None, str(done)
        if original is None:
            return
        module, _, class_name = original.partition(":")
        base = getattr(import_file(FOLDER / "sources" / f"{module}.py"), class_name)
        saved = attempt(base.load_from_checkpoint, path).result
        tokens = torch.arange(10).reshape(2, 5)
        given = {"ConvNet": torch.ones(2, 3, 8, 8), "VocabNet": tokens}.get(
            class_name, torch.linspace(-2, 2, 16).view(2, 8)
        )
        with torch.no_grad():
            torch.testing.assert_close(done.result.eval()(given), saved.eval()(given), rtol=1e-6, atol=1e-6)

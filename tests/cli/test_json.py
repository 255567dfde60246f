"""What programs read: valid against the schemas that are shipped, ASCII, and the same as the Python functions give."""

from __future__ import annotations

import copy
import json
import math
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from command_line import DEMO

import relight as package
from relight.cli.app import _COMMANDS
from relight.cli.demo import CASES
from relight.core.target import ModelSpec
from relight.report import inspect_json
from relight.rulekit import File, Fires, Tensor
from relight.rulekit.registry import all_rules
from relight.testing import facts_of, write
from relight.testing.harness import target_of

SCHEMAS = DEMO.parents[1] / "report" / "schemas"
NAMES = (
    "baseline", "check", "convert", "diff", "fix", "inspect", "map", "plan", "rule", "rules", "sidecar", "spec", "targets",
    "tensor", "verify",
)  # fmt: skip
SPECS = sorted(p.name for p in DEMO.glob("*.spec.json"))
FILES = sorted(p.name for p in DEMO.glob("*.ckpt"))


def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


VALIDATORS = {name: _validator(name) for name in NAMES}


def valid(name: str, data: object) -> list[str]:
    """What is wrong with data; nothing if it follows the schema."""
    return [f"{e.json_path}: {e.message[:200]}" for e in VALIDATORS[name].iter_errors(data)]


def test_every_schema_is_tested():
    assert sorted(p.name for p in SCHEMAS.glob("*.json")) == [f"{n}-1.json" for n in NAMES]
    for name in NAMES:
        schema = VALIDATORS[name].schema
        assert schema["$id"] == schema["properties"]["schema"]["const"] == f"relight/{name}/1"
        assert schema["additionalProperties"] is False


# ---------------------------------------------------------------- check


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.title)
def test_check(relight, case):
    arguments = ["check", case.file, "--for", case.intent, "--format", "json"]
    answer = relight(*arguments, *(("--target", case.target) if case.target else ()))
    data = json.loads(answer.out)
    assert valid("check", data) == []
    assert data == package.check(case.file, target=case.target, intent=case.intent).to_dict()
    assert (data["verdict"] == "loads") is (answer.status == 0)
    assert (data["prediction"] is None) is (answer.status == 0)


def test_check_arguments(relight):
    out = relight(
        "check", "trained.ckpt", "--target", "trained.spec.json", "--no-strict", "--weights-only",
        "--map-location", "cpu", "--init", "width=8", "--format", "json",
    ).out  # fmt: skip
    data = json.loads(out)
    assert valid("check", data) == []
    assert data["arguments"] == {"strict": False, "weights_only": True, "map_location": "cpu", "init": ["width"]}


def test_check_ignored(relight):
    out = relight.says("check", "trained.ckpt", "--target", "grown.spec.json", "--ignore", "RL303", "--format", "json")
    data = json.loads(out)
    assert valid("check", data) == []
    told = data["suppressed"][0]
    assert (told["code"], told["name"], told["how"], told["reason"]) == ("RL303", "layer-added", "ignored", "--ignore")
    assert (data["verdict"], data["findings"]) == ("fails", [])
    assert data["prediction"]["exception"] == "RuntimeError"


def written_baseline(relight):
    """The text of a baseline with one finding."""
    relight("check", "trained.ckpt", "--target", "grown.spec.json", "--baseline", "known.json", "--write-baseline")
    return Path("known.json").read_text(encoding="utf-8")


def test_check_explained(relight):
    arguments = ("check", "trained.ckpt", "--target", "grown.spec.json", "--explain", "--format", "json")
    data = json.loads(relight.finds(*arguments))
    assert valid("check", data) == []
    assert [e["code"] for e in data["explanations"]] == ["RL303"]
    assert data == package.check("trained.ckpt", target="grown.spec.json", explain=True).to_dict()


SEVERAL = ("--target", "grown.spec.json", "--target", "renamed.spec.json", "--target", "trained.spec.json")


@pytest.mark.parametrize("file", FILES)
def test_check_several(relight, file):
    answer = relight("check", file, *SEVERAL, "--format", "json")
    data = json.loads(answer.out)
    assert valid("targets", data) == valid("check", data["report"]) == []
    assert data["report"]["target"]["argument"] == data["candidates"][0]["target"]
    assert data == package.rank_targets(file, SEVERAL[1::2]).to_dict()


def test_check_candidates(relight):
    data = json.loads(relight.says("check", "trained.ckpt", "--env", "torch==2.13.0", "--format", "json"))
    assert valid("check", data) == []
    assert "models.py:Trained" in data["candidates"]
    assert data["environment"]["origin"] == "the given versions"


FIRES = [pytest.param(r, e, id=f"{r.code}-{e.name}") for r in all_rules() for e in r.examples if isinstance(e, Fires)]


@pytest.mark.parametrize("rule, example", FIRES)
def test_reports_of_all_rules(rule, example, tmp_path):
    from relight.engine.choice import Choice
    from relight.engine.diagnose import diagnose
    from relight.report.text import headline

    facts = facts_of(example, tmp_path)
    report = diagnose(facts, all_rules())
    text = json.dumps(report.to_dict())
    assert valid("check", json.loads(text)) == []
    assert text.isascii()

    # What is hidden changes what is shown and counted, never the answer.
    hidden = diagnose(facts, all_rules(), choice=Choice.of(ignore={rule.name: "known"}))
    assert valid("check", hidden.to_dict()) == []
    assert (hidden.verdict, hidden.prediction) == (report.verdict, report.prediction)
    assert hidden.unanswered is report.unanswered
    assert sorted(f.message for f in hidden.all_findings) == sorted(f.message for f in report.findings)
    assert rule.code in {s.code for s in hidden.suppressed} - {f.code for f in hidden.findings}
    nothing = diagnose(facts, all_rules(), choice=Choice.of(ignore={"RL": "all of it"}))
    assert (nothing.findings, nothing.failed) == ((), False)
    assert (nothing.verdict, nothing.prediction) == (report.verdict, report.prediction)
    assert headline(nothing).startswith(headline(report).rstrip("."))


def test_a_crash_is_part_of_the_report(relight, monkeypatch):
    from relight.rules.rl303_layer_added import LayerAdded

    def crash(self, facts):
        raise ZeroDivisionError("sums")

    monkeypatch.setattr(LayerAdded, "check", crash)
    answer = relight("check", "trained.ckpt", "--target", "grown.spec.json", "--format", "json")
    data = json.loads(answer.out)
    assert valid("check", data) == []
    assert [c["code"] for c in data["crashed"]] == ["RL303"]
    assert data["crashed"][0]["error"].startswith("ZeroDivisionError: sums (test_json.py:")


# ---------------------------------------------------------------- inspect


@pytest.mark.parametrize("file", FILES)
def test_inspect(relight, file):
    data = json.loads(relight.says("inspect", file, "--format", "json"))
    assert valid("inspect", data) == []
    assert data == inspect_json.to_dict(package.inspect(file))


@pytest.mark.parametrize("rule, example", FIRES)
def test_inspect_of_the_files_of_all_rules(rule, example, tmp_path):
    checkpoint = facts_of(example, tmp_path).checkpoint
    assert valid("inspect", json.loads(json.dumps(inspect_json.to_dict(checkpoint)))) == []


@pytest.mark.parametrize("content", [b"", b"<html></html>", bytes(4000), b"PK\x03\x04", b"\x80\x02}."])
def test_inspect_of_anything(relight, demo, content):
    (demo / "x.ckpt").write_bytes(content)
    assert valid("inspect", json.loads(relight.says("inspect", "x.ckpt", "--format", "json"))) == []


def test_inspect_says_what_is_in_the_file(relight):
    data = json.loads(relight.says("inspect", "trained.ckpt", "--format", "json"))
    assert (data["layout"], data["epoch"], data["global_step"]) == ("torch-zip", 2, 8)
    assert data["hyper_parameters"] == {"width": 8, "classes": 3}
    assert data["state_dict"][0] == {
        "key": "body.0.weight",
        "dtype": "float32",
        "shape": [8, 4],
        "stride": [4, 1],
        "device": "cpu",
        "storage": "0",
        "offset": 0,
        "nbytes": 128,
        "layout": "strided",
    }


# ---------------------------------------------------------------- spec


@pytest.mark.parametrize("name", SPECS)
def test_spec(name):
    data = json.loads((DEMO / name).read_text())
    assert valid("spec", data) == []
    assert ModelSpec.from_dict(data).to_dict() == data


def test_spec_of_an_unknown_environment():
    model = next(e.model for r in all_rules() for e in r.examples if e.model is not None and e.model.failure is None)
    spec = target_of(model).spec
    assert valid("spec", json.loads(json.dumps(replace(spec, environment=None, init=None).to_dict()))) == []


# ---------------------------------------------------------------- rules, explain


def test_rules(relight):
    data = json.loads(relight.says("rules", "--format", "json"))
    assert valid("rules", data) == []
    assert [r["code"] for r in data["rules"]] == [r.code for r in all_rules()]


def test_explain(relight):
    data = json.loads(relight.says("explain", "layer-added", "--format", "json"))
    assert (data["schema"], data["code"], data["name"]) == ("relight/rule/1", "RL303", "layer-added")
    assert {e["fires"] for e in data["examples"]} == {True, False}


@pytest.mark.parametrize("rule", all_rules(), ids=lambda r: r.code)
def test_explain_of_every_rule(relight, rule):
    assert valid("rule", json.loads(relight.says("explain", rule.name, "--format", "json"))) == []


# ---------------------------------------------------------------- inspect --tensor, diff, verify

ODD = File(
    tensors={
        "w": (2, 3), "none": (0, 3), "big": Tensor((2,), "float64"), "n": Tensor((), "int64"),
        "z": Tensor((2,), "complex64"), "b": Tensor((3,), "bool"),
    }
)  # fmt: skip


@pytest.fixture
def odd(demo):
    """A file with NaN, Inf, and numbers whose sum no float holds."""
    path = write(ODD, demo / "odd.ckpt")
    poke(path, "w", struct.pack("<3f", math.nan, -math.inf, 2.0))
    poke(path, "big", struct.pack("<2d", 1.7e308, 1.7e308))
    return path


def poke(path, key, data):
    checkpoint = package.inspect(path)
    tensor = next(t for t in checkpoint.tensors if t.key == key)
    start = checkpoint.storages[tensor.storage_id].span.start
    raw = bytearray(path.read_bytes())
    raw[start : start + len(data)] = data
    path.write_bytes(raw)


def strictly(text):
    """JSON without NaN and Infinity, which it does not have and Python writes."""
    return json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize("key", ODD.tensors)
def test_tensor(relight, odd, key):
    data = strictly(relight.says("inspect", "odd.ckpt", "--tensor", key, "--format", "json"))
    assert valid("tensor", data) == []
    assert (data["key"], math.prod(data["shape"]) * (2 if key == "z" else 1)) == (key, data["statistics"]["count"])


def test_tensor_says_what_is_no_number(relight, odd):
    told = strictly(relight.says("inspect", "odd.ckpt", "--tensor", "w", "--format", "json"))["statistics"]
    assert (told["nan"], told["inf"], told["first"][:3]) == (1, 1, ["nan", "-inf", 2.0])
    told = strictly(relight.says("inspect", "odd.ckpt", "--tensor", "big", "--format", "json"))["statistics"]
    assert (told["minimum"], told["maximum"], told["mean"], told["std"]) == (1.7e308, 1.7e308, None, None)
    assert "mean beyond float64" in relight.says("inspect", "odd.ckpt", "--tensor", "big")


@pytest.mark.parametrize("values", [(), ("--values",)], ids=["described", "values"])
@pytest.mark.parametrize("file", [*FILES, "odd.ckpt"])
def test_diff(relight, odd, file, values):
    answer = relight("diff", "trained.ckpt", file, *values, "--format", "json")
    data = strictly(answer.out)
    assert valid("diff", data) == []
    assert data == package.diff("trained.ckpt", file, values=bool(values)).to_dict()
    assert data["equal"] is (answer.status == 0) is (file == "trained.ckpt")
    assert (data["values"] is None) is not bool(values)


def test_diff_of_values_that_no_float_holds(relight, odd, demo):
    shutil.copy(odd, demo / "other.ckpt")
    poke(demo / "other.ckpt", "big", struct.pack("<2d", -1.7e308, 1.0))
    poke(demo / "other.ckpt", "z", struct.pack("<4f", 9, 9, 9, 9))
    data = strictly(relight("diff", "odd.ckpt", "other.ckpt", "--values", "--format", "json").out)
    assert valid("diff", data) == []
    told = {v["key"]: (v["differing"], v["numel"], v["largest"]) for v in data["values"]}
    assert told["big"] == (2, 2, None)
    assert told["z"][:2] == (2, 2)  # elements, not their parts


@pytest.mark.parametrize("options", [(), ("--finite",), ("--digest",), ("--finite", "--digest")], ids="".join)
@pytest.mark.parametrize("file", [*FILES, "odd.ckpt"])
def test_verify(relight, odd, file, options):
    answer = relight("verify", file, *options, "--format", "json")
    data = strictly(answer.out)
    assert valid("verify", data) == []
    assert data["ok"] is (answer.status == 0)
    assert (data["non_finite"] is None) is ("--finite" not in options)
    assert (data["digests"] is None) is ("--digest" not in options)
    if "--finite" in options and file == "odd.ckpt":
        assert [(t["key"], t["nan"], t["inf"]) for t in data["non_finite"]] == [("w", 1, 1)]


@pytest.mark.parametrize("content", [b"", b"<html></html>", bytes(4000), b"PK\x03\x04", b"\x80\x02}."])
def test_verify_and_diff_of_anything(relight, demo, content):
    (demo / "x.ckpt").write_bytes(content)
    assert valid("verify", strictly(relight("verify", "x.ckpt", "--finite", "--format", "json").out)) == []
    for files in (("x.ckpt", "trained.ckpt"), ("trained.ckpt", "x.ckpt"), ("x.ckpt", "x.ckpt")):
        assert valid("diff", strictly(relight("diff", *files, "--values", "--format", "json").out)) == []


# ---------------------------------------------------------------- fix


def test_plan_and_receipt(relight, demo):
    question = ("trained.ckpt", "--target", "renamed.spec.json", "--format", "json")
    plan = strictly(relight.says("fix", *question, "--plan-only"))
    assert valid("plan", plan) == []
    assert plan == package.plan(package.check("trained.ckpt", target="renamed.spec.json")).to_dict()
    (demo / "plan.json").write_text(json.dumps(plan))
    done = strictly(relight.says("fix", *question, "--plan", "plan.json", "-o", "copy.ckpt"))
    assert valid("fix", done) == []
    assert done["plan"] == plan
    assert done["proved"] is True
    assert done["findings"] == {"gone": ["renamed-module"], "left": [], "new": []}
    assert package.check("copy.ckpt", target="renamed.spec.json").verdict.value == "loads"


# ---------------------------------------------------------------- convert


@pytest.mark.parametrize("file", [f for f in FILES if f != "download.ckpt"])  # which is a web page
def test_convert(relight, demo, file):
    done = strictly(relight.says("convert", file, "w.safetensors", "--format", "json"))
    assert valid("convert", done) == []
    assert done["source"] == {"path": file, "layout": done["source"]["layout"], "bytes": (demo / file).stat().st_size}
    assert [o["bytes"] for o in done["outputs"]] == [(demo / o["path"]).stat().st_size for o in done["outputs"]]
    assert valid("sidecar", strictly((demo / "w.rest.json").read_text())) == []


# ---------------------------------------------------------------- the schemas can say no


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses_what_it_does_not_know(relight, demo, name):
    text = {
        "baseline": lambda: written_baseline(relight),
        "convert": lambda: relight("convert", "trained.ckpt", "w.safetensors", "--format", "json").out,
        "sidecar": lambda: (relight("convert", "trained.ckpt", "w.safetensors"), (demo / "w.rest.json").read_text())[1],
        "check": lambda: relight("check", "trained.ckpt", "--target", "grown.spec.json", "--format", "json").out,
        "inspect": lambda: relight("inspect", "trained.ckpt", "--format", "json").out,
        "spec": lambda: (DEMO / "trained.spec.json").read_text(),
        "rules": lambda: relight("rules", "--format", "json").out,
        "rule": lambda: relight("explain", "layer-added", "--format", "json").out,
        "diff": lambda: relight("diff", "trained.ckpt", "classic.ckpt", "--values", "--format", "json").out,
        "verify": lambda: relight("verify", "trained.ckpt", "--finite", "--digest", "--format", "json").out,
        "fix": lambda: relight("fix", "trained.ckpt", "--target", "renamed.spec.json", "--format", "json").out,
        "plan": lambda: (
            relight("fix", "trained.ckpt", "--target", "renamed.spec.json", "--plan-only", "--format", "json").out
        ),
        "map": lambda: relight("map", "trained.ckpt", "--target", "renamed.spec.json", "--format", "json").out,
        "targets": lambda: relight("check", "trained.ckpt", *SEVERAL, "--format", "json").out,
        "tensor": lambda: relight("inspect", "trained.ckpt", "--tensor", "body.0.weight", "--format", "json").out,
    }[name]()
    whole = json.loads(text)
    assert valid(name, whole) == []
    for key in whole:
        less = copy.deepcopy(whole)
        del less[key]
        assert valid(name, less), key
    assert valid(name, {**whole, "more": 1})
    assert valid(name, {**whole, "schema": f"relight/{name}/2"})


def test_every_command_with_json_is_known():
    """A command that gets ``--format json`` gets a schema."""
    from click import Context

    from relight.cli.app import relight as group

    context = Context(group)
    with_json = {
        name
        for name in _COMMANDS
        for option in group.get_command(context, name).params
        if option.name == "format_" and "json" in option.type.choices
    }
    assert with_json - set(NAMES) == {"explain"}  # its answer is a relight/rule/1

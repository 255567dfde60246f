"""What programs read: valid against the schemas that are shipped, ASCII, and the same as the Python functions give."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import jsonschema
import pytest
from command_line import DEMO

import relight as package
from relight.cli.app import _COMMANDS
from relight.cli.demo import CASES
from relight.core.target import ModelSpec
from relight.report import inspect_json
from relight.rulekit import Fires
from relight.rulekit.registry import all_rules
from relight.testing import facts_of
from relight.testing.harness import target_of

SCHEMAS = DEMO.parents[1] / "report" / "schemas"
NAMES = ("check", "inspect", "rules", "spec")
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
    assert data["suppressed"] == [{"code": "RL303", "reason": "--ignore"}]
    assert data["verdict"] == "unknown"


def test_check_candidates(relight):
    data = json.loads(relight.says("check", "trained.ckpt", "--env", "torch==2.13.0", "--format", "json"))
    assert valid("check", data) == []
    assert "models.py:Trained" in data["candidates"]
    assert data["environment"]["origin"] == "the given versions"


FIRES = [pytest.param(r, e, id=f"{r.code}-{e.name}") for r in all_rules() for e in r.examples if isinstance(e, Fires)]


@pytest.mark.parametrize("rule, example", FIRES)
def test_reports_of_all_rules(rule, example, tmp_path):
    from relight.engine.diagnose import diagnose

    report = diagnose(facts_of(example, tmp_path), all_rules())
    text = json.dumps(report.to_dict())
    assert valid("check", json.loads(text)) == []
    assert text.isascii()


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


# ---------------------------------------------------------------- the schemas can say no


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses_what_it_does_not_know(relight, name):
    text = {
        "check": lambda: relight("check", "trained.ckpt", "--target", "grown.spec.json", "--format", "json").out,
        "inspect": lambda: relight("inspect", "trained.ckpt", "--format", "json").out,
        "spec": lambda: (DEMO / "trained.spec.json").read_text(),
        "rules": lambda: relight("rules", "--format", "json").out,
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
    """A command that gets ``--format json`` gets a schema, or is named here."""
    from click import Context

    from relight.cli.app import relight as group

    context = Context(group)
    with_json = {
        name
        for name in _COMMANDS
        for option in group.get_command(context, name).params
        if option.name == "format_" and "json" in option.type.choices
    }
    assert with_json - set(NAMES) == {"diff", "verify", "explain"}

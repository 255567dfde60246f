"""Commands that build a real model. One child builds for all but the last test: each start of torch costs seconds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
from command_line import DEMO

from relight.live import capture
from relight.live.capture import TargetRequest, build_targets

pytestmark = pytest.mark.torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo.py"
SCHEMA = json.loads((DEMO.parents[1] / "report" / "schemas" / "spec-1.json").read_text())


@pytest.fixture(scope="module")
def built():
    """What the child says of every class of the demo, and of one that is not there."""
    names = [f"models.py:{p.name.removesuffix('.spec.json').capitalize()}" for p in DEMO.glob("*.spec.json")]
    names.append("models.py:Gron")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(DEMO)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        return dict(zip(names, build_targets([TargetRequest(argument=n) for n in names], cache=False), strict=True))


@pytest.fixture
def one_child(built, monkeypatch):
    monkeypatch.setattr(capture, "build_target", lambda argument, *args, **kwargs: built[argument])


@pytest.mark.usefixtures("one_child")
def test_specs_of_the_demo_are_up_to_date():
    """``python scripts/make_demo.py --specs`` writes what is checked in."""
    spec = importlib.util.spec_from_file_location("make_demo", SCRIPT)
    make_demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_demo)
    made = make_demo.make_specs()
    assert sorted(made) == sorted(p.name for p in DEMO.glob("*.spec.json"))
    for name, text in made.items():
        assert json.loads(text) == json.loads((DEMO / name).read_text()), name
        assert text == (DEMO / name).read_text(), name


@pytest.mark.usefixtures("one_child")
def test_spec(relight):
    data = json.loads(relight.says("spec", "models.py:Grown"))
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    checked_in = json.loads((DEMO / "grown.spec.json").read_text())
    assert {k: v for k, v in data.items() if k != "environment"} == {
        k: v for k, v in checked_in.items() if k != "environment"
    }


@pytest.mark.usefixtures("one_child")
def test_spec_of_a_class_that_is_not_there(relight):
    assert relight.refuses("spec", "models.py:Gron") == (
        "relight: --target models.py:Gron: models.py has no Gron\nDid you mean Grown?\n"
    )


def test_check_with_a_class_says_what_check_with_its_spec_says(relight, demo):
    live = relight.finds("check", "trained.ckpt", "--target", "models.py:Grown")
    spec = relight.finds("check", "trained.ckpt", "--target", "grown.spec.json")
    assert live.replace("--target models.py:Grown", "--target grown.spec.json") == spec

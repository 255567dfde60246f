"""Reading manifests: of honest files, and of files in which anything may stand; digests; answers beside each other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from relight.core.manifest import KEY, Make, Manifest
from relight.core.target import Environment, Intent, IntentCall, Replay
from relight.engine.diagnose import diagnose
from relight.facts import altered, makes, replay, surroundings
from relight.facts.manifest import manifest_of
from relight.reader import fingerprint, open_checkpoint
from relight.report import inspect_json, inspect_text
from relight.report import text as report_text
from relight.report.layout import Style
from relight.rulekit import File, Fires, Model, function, make, manifest, probe
from relight.rulekit.registry import all_rules
from relight.testing import facts_of, write

_MAKE = make(
    {"a": ("models.B", {"k": "1"}), "b": "torch.nn.modules.linear.Linear"},
    a=function("d", [("s", 1)]),
    hooks={"b": ["models.hook"]},
    buffers={"b.table": (4,)},
    tied=[["net.weight", "net.bias"]],
)
_MAKE["buffers"][0]["values"] = [0.5, 0.1, 0.0, 1.0, 0.5, 0.5]
_WHOLE = json.loads(
    str(
        manifest(
            _MAKE,
            packages={"timm": "1.0.0"},
            integrity={"net.weight": ["0" * 16, "1" * 24]},
            parameters=["net.weight", "net.bias"],
            probe=probe([0.5, 1.0]),
        )[KEY]
    )
)
_ODD = [None, 3, "x", [], {}, [None], [[1]], {"a": None}, True, 1e400]


def _paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for k, v in value.items():
            yield from _paths(v, (*path, k))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from _paths(v, (*path, i))


def _with(value, path, new):
    if not path:
        return new
    out = dict(value) if isinstance(value, dict) else list(value)
    out[path[0]] = _with(value[path[0]], path[1:], new)
    return out


_WHOLE["distributions"] = {"torch": ["torch"]}
_WHOLE["sealed"] = {"target": "models.py:B"}
_WHOLE["environment"]["python"] = "3.9.1"
PATHS = [p for p in _paths(_WHOLE) if p and p != ("schema",)]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: ".".join(map(str, p)))
def test_whatever_stands_in_a_manifest_nothing_crashes(tmp_path, path):
    for odd in _ODD:
        data = _with(_WHOLE, path, odd)
        model = Model(architecture=make({"a": ("models.B", {"k": "2"})}, a=function("e")), answer=probe([2.0, 1.0]))
        example = Fires(
            name="x", file=File(extra={KEY: json.dumps(data)}), model=model, intent=Intent(call=IntentCall.RESUME)
        )
        facts = facts_of(example, tmp_path)
        report = diagnose(facts, all_rules())
        assert report.crashed == (), (odd, report.crashed)
        inspect_text.render(facts.checkpoint, Style(), everything=True)
        inspect_json.to_dict(facts.checkpoint)
        read = manifest_of(facts.checkpoint)
        if read is not None:
            replay.question(read, facts.checkpoint)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100000, '{"schema": "other/1"}', "3"])
def test_what_is_no_manifest(tmp_path, text):
    assert manifest_of(open_checkpoint(write(File(extra={KEY: text}), tmp_path / "a.ckpt"))) is None


def test_a_make_is_the_same_after_a_journey():
    made = Make.from_dict(_MAKE)
    assert made is not None
    assert Make.from_dict(json.loads(json.dumps(made.to_dict()))) == made


# ---------------------------------------------------------------- digests


@pytest.mark.parametrize("size, count", [(0, 0), (1, 1), (4096, 1), (65536, 16), (65537, 16), (10**9, 16)])
def test_a_sample_lies_inside(size, count):
    found = fingerprint.offsets(size)
    assert len(found) == count
    assert found == sorted(set(found))
    assert all(0 <= o < size for o in found)
    if size > 65536:
        assert size - fingerprint.CHUNK - 8 < found[-1] <= size - fingerprint.CHUNK


@pytest.mark.torch
def test_digests_of_the_callback_are_those_of_the_reader(tmp_path):
    import torch

    from relight.manifest.integrity import integrity

    base = torch.randn(300, 301)
    state = {
        "large": base, "odd": torch.randn(7), "half": torch.randn(5).half(), "bf": torch.randn(3).bfloat16(),
        "flags": torch.tensor([True, False, True]), "empty": torch.empty(0), "scalar": torch.tensor(3),
        "view": base[2:5], "moved": base.reshape(-1)[1:4],
    }  # fmt: skip
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    read = Manifest({"integrity": integrity(state, torch)})
    assert altered.altered(checkpoint, read) == altered.Altered((), len(state), True)
    for key in ("large", "odd", "bf", "flags"):
        changed = {**state, key: state[key].clone()}
        changed[key].view(-1)[-1] = not state[key].view(-1)[-1] if key == "flags" else state[key].view(-1)[-1] + 1
        torch.save({"state_dict": changed}, tmp_path / "b.pt")
        found = altered.altered(open_checkpoint(tmp_path / "b.pt"), read)
        assert found.keys == (key,)


# ---------------------------------------------------------------- answers


def _outcome(before, now, **changes):
    return replay.compare(Manifest({"probe": before}), replace(Replay(answer=now), **changes))


def test_answers_that_are_the_same():
    assert _outcome(probe([1.0, 2.0]), probe([1.0002, 2.0])).same is True
    wrong = _outcome(probe([1.0, 2.0]), probe([1.1, 2.0]))
    assert (wrong.same, wrong.form) == (False, "2 x 3")
    assert wrong.text == "outputs differ by up to 0.1"


def test_a_short_type_has_a_wider_tolerance():
    before = {**probe([1.0, 2.0]), "dtype": "bfloat16"}
    assert _outcome(before, probe([1.01, 2.0])).same is True


def test_what_cannot_be_told():
    before = probe([1.0])
    assert _outcome(before, None, reason="no").reason == "no"
    assert _outcome(before, before, steady=False).same is None
    assert replay.compare(Manifest({"probe": before}), None) is None


def test_another_shape_is_another_answer():
    assert _outcome(probe([1.0, 2.0]), probe([1.0, 2.0, 3.0])).same is False


def test_rows_that_are_nearly_equal_may_change_places():
    def rows(first, lead):
        out = probe([1.0, 2.0])
        out["outputs"][0].update(largest=[first, 1], lead=[lead, 3.0])
        return out

    assert _outcome(rows(0, 1e-5), rows(1, 1e-5)).same is True
    clear = _outcome(rows(0, 2.0), rows(1, 2.0))
    assert (clear.same, clear.predictions) == (False, (1, 2))


@pytest.mark.parametrize("shape", [[10**9], [-1], ["a"], [2, 10**8], None])
def test_inputs_that_nobody_should_make(tmp_path, shape):
    odd = {**probe([1.0]), "input": {"args": [{"tensor": "float32", "shape": shape}], "kwargs": {}}}
    checkpoint = open_checkpoint(write(File(extra=manifest(probe=odd)), tmp_path / "a.ckpt"))
    found = manifest_of(checkpoint)
    assert found is not None
    assert replay.question(found, checkpoint) is None


# ---------------------------------------------------------------- buffers, surroundings, seals


def test_a_buffer_that_another_device_computes_is_the_same():
    """Half a percent of the deviation is rounding; another base of a table is not."""
    then = (0.2, 0.5, -1.0, 1.0, 0.1, 0.3)
    assert makes._moved(then, tuple(v * 1.0005 for v in then)) is None
    assert makes._moved(then, (0.2, 0.5, -1.0, 1.0, 0.1, 0.4)) == ("a value 0.3", "a value 0.4")
    assert makes._moved(then, None) is None
    assert makes._moved(then, then[:4]) is None


def test_versions_that_touch_the_model_come_first():
    data = {
        "environment": {
            "python": "3.9.1",
            "packages": {"torch": "2.1.0", "pandas": "1.0", "open-clip-torch": "2.0", "numpy": "2.4.1"},
        },
        "architecture": make({"net": ("open_clip.model.CLIP", {})}),
        "distributions": {"open_clip": ["open-clip-torch"]},
    }  # fmt: skip
    here = Environment(
        python="3.11.7", packages={"torch": "2.13.0", "pandas": "2.0", "open-clip-torch": "3.1", "numpy": "2.4.6"}
    )
    found = surroundings.differences(Manifest(data), here)
    assert [(d.name, d.then, d.now, d.why) for d in found] == [
        ("open-clip-torch", "2.0", "3.1", "defines CLIP"),
        ("torch", "2.1.0", "2.13.0", "runs the model"),
        ("python", "3.9.1", "3.11.7", "runs the program"),
        ("pandas", "1.0", "2.0", "defines no layer of it"),
    ]


def test_a_seal_never_speaks_of_training(tmp_path):
    act = "torch.nn.modules.activation."
    for sealed, said, not_said in ((True, "sealed with", "trained"), (False, "trained with", "sealed")):
        example = Fires(
            name="x",
            file=File(extra=manifest(make({"act": f"{act}ReLU"}), sealed=sealed)),
            model=Model(architecture=make({"act": f"{act}GELU"})),
        )
        facts = facts_of(example, tmp_path)
        text = report_text.render(diagnose(facts, all_rules()), Style())
        assert said in text
        kept = [line for line in text.splitlines() if not_said in line and "of the training run" not in line]
        assert kept == []
    assert "it tells the code of that day" not in text

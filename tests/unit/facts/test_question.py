from __future__ import annotations

import ast

import pytest

from relight.core.target import Intent, IntentCall
from relight.facts.question import LEFT_OUT, Code, Question, literal


def test_the_call_repeats_what_the_user_passes() -> None:
    q = Question(
        path="model.ckpt", intent=Intent(weights_only=False, init=("width",)), init={"width": 8}, class_name="Net"
    )
    assert (
        q.load_call(strict=False) == 'Net.load_from_checkpoint("model.ckpt", weights_only=False, width=8, strict=False)'
    )


def test_an_argument_can_be_left_out() -> None:
    q = Question(path="m.ckpt", intent=Intent(strict=True), class_name="Net")
    assert q.load_call(strict=LEFT_OUT) == 'Net.load_from_checkpoint("m.ckpt")'


def test_plain_torch() -> None:
    q = Question(path="m.pt", intent=Intent(call=IntentCall.WEIGHTS))
    assert q.load_call(map_location="cpu", strict=False) == 'torch.load("m.pt", map_location="cpu")'


@pytest.mark.parametrize("text", ['a "quoted" name', "it's", "back\\slash", "new\nline", "plain", "übung"])
def test_literals_are_python(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text


def test_code_is_printed_as_it_is() -> None:
    assert literal(Code("...")) == "..."


@pytest.mark.parametrize(
    ("path", "fixed"),
    [("model.ckpt", "model.fixed.ckpt"), ("a.b/model", "a.b/model.fixed"), ("x/y.tar.pt", "x/y.tar.fixed.pt")],
)
def test_the_copy_lies_beside_the_file(path: str, fixed: str) -> None:
    assert Question(path=path).fixed_path() == fixed


def test_commands_are_quoted_for_a_shell() -> None:
    q = Question(path="my model.ckpt", target="load.py:Net", intent=Intent(call=IntentCall.RESUME))
    assert q.command("check") == "relight check 'my model.ckpt' --target load.py:Net --for resume"

"""What torch will say, in three lines at most."""

from __future__ import annotations

from relight.core.finding import Prediction, Stage
from relight.report.text import quoted

HEAD = "Error(s) in loading state_dict for Net:\n\t"


def quote(message: str, limit: int = 232) -> str:
    return quoted(Prediction(Stage.LOAD_STATE_DICT, "load_state_dict", "RuntimeError", message), limit)


def keys(word: str, names: list[str]) -> str:
    return f"{word} key(s) in state_dict: {', '.join(f'{chr(34)}{n}{chr(34)}' for n in names)}. "


def size(key: str) -> str:
    return (
        f"size mismatch for {key}: copying a param with shape torch.Size([2]) from checkpoint, "
        "the shape in current model is torch.Size([3])."
    )


def test_what_fits_is_quoted_whole() -> None:
    assert quote(HEAD + keys("Missing", ["a.weight"]) + "\n\t" + keys("Unexpected", ["b"])) == (
        'load_state_dict raises RuntimeError: Missing key(s) in state_dict: "a.weight". '
        'Unexpected key(s) in state_dict: "b".'
    )
    assert quote("") == "load_state_dict raises RuntimeError"


def test_of_many_keys_some_are_named_and_all_are_counted() -> None:
    names = [f"layers.{i}.weight" for i in range(300)]
    assert quote(HEAD + keys("Missing", names)) == (
        'load_state_dict raises RuntimeError: Missing key(s) in state_dict: "layers.0.weight", "layers.1.weight", '
        '"layers.2.weight", "layers.3.weight", "layers.4.weight", "layers.5.weight", '
        '"layers.6.weight", "layers.7.weight" ... and 292 more.'
    )
    both = quote(HEAD + keys("Missing", names) + "\n\t" + keys("Unexpected", [f"module.{n}" for n in names]))
    assert both == (
        'load_state_dict raises RuntimeError: Missing key(s) in state_dict: "layers.0.weight", "layers.1.weight" '
        '... and 298 more. Unexpected key(s) in state_dict: "module.layers.0.weight", '
        '"module.layers.1.weight" ... and 298 more.'
    )
    assert len(both) <= 232


def test_of_many_sizes_the_first_is_quoted() -> None:
    text = quote(HEAD + "\n\t".join(size(f"a.{i}") for i in range(300)))
    assert text == (
        "load_state_dict raises RuntimeError: size mismatch for a.0: copying a param with shape torch.Size([2]) "
        "from checkpoint, the shape in current model is torch.Size([3]) ... and 299 more."
    )
    mixed = quote(HEAD + keys("Missing", ["x" * 50] * 9) + "\n\t" + "\n\t".join(size("b" * 60) for _ in range(3)))
    assert mixed.endswith(f"... and 8 more. size mismatch for {'b' * 60} ... and 2 more.")


def test_other_messages_are_cut_between_words() -> None:
    text = quote("word " * 100, limit=80)
    assert text.endswith(" word ...")
    assert len(text) <= 80

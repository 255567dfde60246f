from __future__ import annotations

from relight.core.finding import Evidence
from relight.report.layout import Style, clean, columns, shortened, titled, wrapped


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert clean("a\x1b[31mb\u202ec") == "a\\x1b[31mb\\u202ec"
    assert clean("ümläut → ok") == "ümläut → ok"


def test_the_name_stands_at_the_right() -> None:
    (line,) = titled("error: x", "[name]", Style(width=40))
    assert len(line) == 40
    assert line.endswith("[name]")


def test_columns_line_up() -> None:
    lines = columns(
        [Evidence("a", "one", "f.py:1"), Evidence("longer", "two")],
        Style(width=40),
    )
    assert lines == ["  a       one                     f.py:1", "  longer  two"]


def test_long_paths_are_not_broken() -> None:
    path = "x" * 100
    assert path in wrapped(f"see {path} there", Style(width=40))[1]


def test_shortened_says_that_it_is() -> None:
    assert shortened("a\n b  c", 80) == "a b c"
    assert shortened("word " * 40, 20).endswith("...")


def test_colour_is_optional() -> None:
    assert Style().paint("x", "error") == "x"
    assert Style(colour=True).paint("x", "error") == "\x1b[1;31mx\x1b[0m"


def test_the_name_stays_on_the_first_line() -> None:
    lines = titled("error: this is more than fits beside its name", "[some-name]", Style(width=40), indent="  ")
    assert lines == ["error: this is more than     [some-name]", "  fits beside its name"]


def test_no_word_is_cut() -> None:
    assert shortened('Missing key(s): "one.weight", "two.weight", "three.weight".', 45) == (
        'Missing key(s): "one.weight" ...'
    )
    assert shortened("x" * 100, 20) == "x" * 16 + " ..."


def test_a_name_that_no_line_has_room_for_is_shortened_in_a_title() -> None:
    lines = titled(f"error: {'a' * 60}.end is gone", "[name]", Style(width=60), indent="  ")
    assert lines[0].startswith("error: aaaaaaaa")
    assert "....end" not in lines[0]
    assert lines[0].endswith("[name]")
    assert len(lines[0]) == 60


def test_calls_and_shapes_are_not_broken() -> None:
    call = 'Net.load_from_checkpoint("model.fixed.ckpt", strict=False)'
    assert wrapped(f"Load the copy with strict=False: {call}", Style(width=62)) == [
        "  Load the copy with strict=False:",
        f"  {call}",
    ]
    assert wrapped("it has the shape [16, 16, 3] here", Style(width=40), indent=" " * 18) == [
        " " * 18 + "it has the shape",
        " " * 18 + "[16, 16, 3] here",
    ]


def test_a_rename_that_is_too_long_takes_two_lines() -> None:
    old, new = f"encoder.{'x' * 20}.query", f"encoder.{'x' * 20}.attn"
    assert columns([Evidence(f"{old} -> {new}", "4 tensors", "a.py:3")], Style(width=60)) == [
        f"  {old}{'4 tensors  a.py:3'.rjust(58 - len(old))}",
        f"    -> {new}",
    ]
    assert columns([Evidence("x" * 58, "a text of some length")], Style(width=60)) == [
        f"  {'x' * 58}",
        "      a text of some length",
    ]

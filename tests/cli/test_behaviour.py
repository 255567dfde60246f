"""Exit codes, where the text goes, colours, pipes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import process

from relight.cli import options
from relight.cli.demo import CASES, LIVE

LOADS = ("check", "trained.ckpt", "--target", "trained.spec.json")
FAILS = ("check", "trained.ckpt", "--target", "grown.spec.json")


@pytest.mark.parametrize("format_", ["text", "json", "markdown"])
def test_exit_codes(relight, format_):
    assert relight(*LOADS, "--format", format_).status == 0
    assert relight(*FAILS, "--format", format_).status == 1
    assert relight("check", "nothing.ckpt", "--format", format_).status == 2


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.title)
def test_check_may_be_left_out(relight, case):
    arguments = [case.file, "--for", case.intent, *(("--target", case.target) if case.target else ())]
    assert relight(*arguments) == relight("check", *arguments)


def test_a_file_that_is_called_like_a_command(relight, demo):
    (demo / "rules").write_bytes((demo / "trained.ckpt").read_bytes())
    assert relight.says("rules").startswith("RL101")
    assert (
        relight.says("./rules", "--target", "trained.spec.json")
        == "./rules: loads into Trained (models.py)\n  Not visible in this file (no manifest): activations, dropout, forward.\n"
    )


def test_a_file_with_spaces_and_quotes(relight, demo):
    """Commands that are printed work when pasted."""
    import shlex

    name = "it's a model.ckpt"
    (demo / name).write_bytes((demo / "trained.ckpt").read_bytes())
    out = relight.says("check", name, "--env", "torch==2.13.0")
    command = next(line for line in out.splitlines() if line.startswith("    relight check"))
    assert shlex.split(command)[2] == name


def test_output_file(relight, demo):
    assert relight.finds(*FAILS, "-o", "report.txt") == ""
    assert (demo / "report.txt").read_text() == relight.finds(*FAILS)
    assert relight.finds(*FAILS, "--format", "json", "--output", "report.json") == ""
    assert json.loads((demo / "report.json").read_text())["verdict"] == "fails"
    assert relight.says("inspect", "trained.ckpt", "-o", "inspect.txt") == ""
    assert "state_dict" in (demo / "inspect.txt").read_text()


def test_output_file_that_cannot_be_written(relight):
    assert relight(*LOADS, "-o", "no/such/folder/report.txt").status == 2


@pytest.mark.parametrize("command", [FAILS, ("inspect", "trained.ckpt"), ("explain", "RL303")])
def test_colours(relight, monkeypatch, command):
    plain = relight(*command).out
    assert "\x1b[" not in plain
    assert relight(*command, "--color", "never").out == plain
    coloured = relight(*command, "--color", "always").out
    assert "\x1b[" in coloured
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert relight(*command).out == plain
    assert relight(*command, "--color", "always").out == coloured, "what was asked for wins"


def test_colours_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert options.style_for("auto", None).colour
    assert not options.style_for("auto", "report.txt").colour
    assert not options.style_for("never", None).colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not options.style_for("auto", None).colour


def test_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert options.style_for("auto", "report.txt").width == 80
    monkeypatch.setenv("COLUMNS", "64")
    assert options.style_for("auto", None).width == 64
    monkeypatch.setenv("COLUMNS", "300")
    assert options.style_for("auto", None).width == 100, "longer lines are hard to read"


def test_the_line_that_announces_is_for_terminals_only(monkeypatch, capsys):
    assert options.announcer(False) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert options.announcer(True) is None
    options.announcer(False)("one line")
    assert capsys.readouterr().err == "one line\n"


def test_a_reader_that_goes_away(demo):
    """``relight ... | head -1`` ends without a traceback, and without a complaint."""
    done = subprocess.run(
        f'"{sys.executable}" -c "from relight.cli.app import main; main()" explain layer-added | head -1',
        shell=True,
        cwd=demo,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "RL303 layer-added\n"
    assert done.stderr == ""


def test_a_pipe_that_is_closed_at_once(demo):
    """The text is longer than what a pipe holds, so writing it fails for certain."""
    (demo / "wide.json").write_text("{}")
    code = (
        "import os, sys\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "from relight.cli.app import main\n"
        "main(['rules', '--format', 'json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=demo, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_as_a_process(demo):
    done = process(*FAILS, cwd=demo)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("trained.ckpt: will not load into Grown (models.py)\n")
    done = process("nothing.ckpt", cwd=demo)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("relight: cannot read nothing.ckpt: there is no such file; this folder has ")


def test_ascii_also_where_names_are_not(demo):
    """Text that a terminal without UTF-8 cannot show is not printed, and nothing fails."""
    (demo / "modell-\u00fc.ckpt").write_bytes((demo / "trained.ckpt").read_bytes())
    done = process("check", "modell-\u00fc.ckpt", "--target", "trained.spec.json", cwd=demo, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        "loads into Trained (models.py)\n  Not visible in this file (no manifest): activations, dropout, forward.\n"
    )
    assert done.stdout.isascii()


def test_demo(relight, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    out = relight.says("demo")
    for case in CASES:
        assert f"# {case.title}\n$ {case.command}\n{case.file}: " in out
    assert LIVE.title not in out
    assert out.splitlines()[-1].startswith("To try things on these files: relight demo --copy FOLDER.")


def test_demo_shows_what_the_commands_say(relight, monkeypatch):
    import importlib.util
    import shlex

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    out = relight.says("demo")
    for case in CASES:
        assert f"$ {case.command}\n{relight(*shlex.split(case.command)[1:]).out}\n" in out


def test_demo_copy(relight, demo):
    out = relight.says("demo", "--copy", "mine")
    assert out == "Copied to mine. Try there:\n  relight check trained.ckpt --target renamed.spec.json\n"
    assert sorted(p.name for p in (demo / "mine").iterdir()) == sorted(
        p.name for p in demo.iterdir() if p.name != "mine"
    )
    assert "'mine' is there already" in relight.refuses("demo", "--copy", "mine")

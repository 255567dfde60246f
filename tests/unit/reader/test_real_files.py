"""Files that real versions wrote, against what those versions say that they hold: names, shapes, values, counters."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from broken_facts import answers
from corpus_facts import compare, sidecars

from relight import check
from relight.reader import open_checkpoint

CORPUS = Path(__file__).parents[2] / "corpus"
BESIDE = list(sidecars(CORPUS / "checkpoints"))
EXPECTED = json.loads((CORPUS / "reader" / "expected.json").read_text())
BROKEN = json.loads((CORPUS / "reader" / "broken.json").read_text())


@pytest.mark.parametrize("path, truth", [pytest.param(p, t, id=f"{p.parent.name}-{p.stem}") for p, t in BESIDE])
def test_everything_that_is_known_of_a_file(path, truth):
    assert list(compare(path, truth)) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_everything_that_is_known_of_a_file_with_odd_tensors(name):
    assert list(compare(CORPUS / "reader" / "checkpoints" / name, EXPECTED[name], ordered=False)) == []


def test_the_comparison_can_say_no():
    path, truth = next((p, t) for p, t in BESIDE if p.parent.name == "E26" and p.stem == "plain")
    key = next(iter(truth["state_dict"]))

    def after(change):
        wrong = copy.deepcopy(truth)
        change(wrong)
        return {d.kind for d in compare(path, wrong)}

    assert after(lambda t: t["state_dict"].pop(key)) == {"keys"}
    assert after(lambda t: t["state_dict"][key].update(shape=[1])) == {"shape"}
    assert after(lambda t: t["state_dict"][key].update(dtype="int8")) == {"dtype"}
    assert after(lambda t: t["state_dict"][key].update(sha256="0" * 16)) == {"values"}
    assert after(lambda t: t["pickle_globals"].append("a.b")) == {"globals"}
    assert after(lambda t: t.update(container="legacy")) == {"layout"}
    assert after(lambda t: t["producer"].update(lightning="1.0.0")) == {"version"}


def test_the_script_over_a_folder(tmp_path):
    script = CORPUS.parents[1] / "scripts" / "check_corpus.py"
    done = subprocess.run([sys.executable, script, CORPUS], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(BESIDE)} of {len(BESIDE)} agree" in done.stdout
    empty = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=60)
    assert empty.returncode == 2


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_said_of_a_broken_file(name):
    path = CORPUS / "reader" / "broken" / name
    for question, answer, right in answers(path, None, BROKEN[name]):
        assert answer in right, question


def test_the_command_for_bytes_in_front_gives_a_checkpoint(tmp_path):
    path = tmp_path / "it's.ckpt"
    path.write_bytes((CORPUS / "reader" / "broken" / "leading_garbage.ckpt").read_bytes())
    (finding,) = check(path).findings
    command = finding.fixes[0].command
    assert command is not None
    subprocess.run(command, shell=True, check=True)
    fixed = open_checkpoint(tmp_path / "it's.fixed.ckpt")
    assert not fixed.problems
    assert len(fixed.tensors) == 4

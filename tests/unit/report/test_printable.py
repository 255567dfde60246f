"""What the functions give, printed."""

from __future__ import annotations

import pickle  # noqa: TID251 (whether a report survives it)
from dataclasses import replace

import pytest
from command_line import DEMO

import relight
from relight.core import finding


@pytest.fixture
def report(monkeypatch):
    monkeypatch.chdir(DEMO)
    return relight.check("trained.ckpt", target="grown.spec.json")


def test_print(report, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print(report)
    assert capsys.readouterr().out == report.text(width=80)
    monkeypatch.setenv("COLUMNS", "60")
    assert max(len(s) for s in str(report).splitlines()[1:] if not s.startswith("    ")) <= 60


def test_colours_and_more(report):
    assert "\x1b[" not in report.text()
    assert "\x1b[1;31m" in report.text(colour=True)
    assert "Not asked:" in relight.check(str(DEMO / "download.ckpt")).text(verbose=True)
    assert report.markdown().startswith("**`trained.ckpt`")


def test_it_is_a_report_like_any_other(report):
    assert isinstance(report, relight.Report)
    assert isinstance(report, finding.Report)
    assert isinstance(replace(report, notes=("a",)), relight.Report)
    assert pickle.loads(pickle.dumps(report)).text() == report.text()
    assert repr(report).startswith("Report(")

"""A copy of the demo's files to work in, and a terminal that is always the same."""

from __future__ import annotations

import shutil

import pytest
from command_line import DEMO, CommandLine


@pytest.fixture(autouse=True)
def terminal(monkeypatch, tmp_path):
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("RELIGHT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The folder of the demo's files, as the working directory."""
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def relight(capsys, demo):
    return CommandLine(capsys)

"""The corpus beside the tests, and answers about many targets with one start of torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relight.core.finding import Report
from relight.core.target import Target
from relight.live import capture
from relight.live.capture import TargetRequest
from relight.reader import open_checkpoint

FOLDER = Path(__file__).parents[1] / "corpus"
SCENARIOS: dict[str, dict[str, Any]] = json.loads((FOLDER / "scenarios.json").read_text())
MATRIX: dict[str, dict[str, Any]] = json.loads((FOLDER / "matrix.json").read_text())
CLASSES = {
    "plain": "PlainMLP",
    "conv": "ConvNet",
    "full": "FullModel",
    "weights_only": "PlainMLP",
    "rich_hparams": "RichModel",
    "custom_module": "CustomModel",
}
MY_CALLBACKS = """\
import pytorch_lightning as pl


class CountCallback(pl.Callback):
    def __init__(self):
        self.count = 0
        self.history = []
"""


@contextmanager
def working_in(path: Path, *python_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Work in a folder, with folders on the PYTHONPATH of the children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("PYTHONPATH", os.pathsep.join(str(p) for p in python_path))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield patch


@contextmanager
def classes_on_path(*python_path: Path) -> Iterator[None]:
    """Import from folders in this process, and forget what was imported afterwards."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(p) for p in python_path]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if any(file.startswith(str(p)) for p in python_path):
                del sys.modules[name]


def build_all(questions: Mapping[str, tuple[str, str, dict[str, Any]]]) -> dict[str, Target]:
    """(target, file, init) by name to what one child makes of them."""
    requests = [
        TargetRequest(argument=target, checkpoint=open_checkpoint(file), init=init)
        for target, file, init in questions.values()
    ]
    return dict(zip(questions, capture.build_targets(requests, cache=False), strict=True))


def check_built(built: Target | None, path: str, **arguments: Any) -> Report:
    """`relight.check` for a target that was built before."""
    from relight import api

    with pytest.MonkeyPatch.context() as patch:
        if built is not None:
            patch.setattr(capture, "build_target", lambda *args, **kwargs: built)
            arguments["target"] = built.argument
        return api.check(path, **arguments)


def agrees(report: Report, actual: Mapping[str, Any]) -> bool:
    """Whether the answer is what a recorded call did."""
    first = report.prediction
    if actual["ok"]:
        return first is None and report.verdict.value in ("loads", "loads-wrong")
    if first is None or first.exception != actual["exception"]:
        return False
    # A record keeps the beginning of a long message only.
    return first.message[:200] in actual["message"] or actual["message"][:200] in first.message


def said(report: Report) -> str:
    """What an assertion shows of a report."""
    first = report.prediction
    findings = [(f.cause, f.severity.value, f.confidence.value) for f in report.findings]
    prediction = first and (first.exception, first.message[:200])
    return f"{report.verdict.value} {prediction} {findings} {report.unknown}"

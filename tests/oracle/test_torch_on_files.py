"""Every known failure of files, asked of the real torch: what relight predicts happens, and its repairs load."""

from __future__ import annotations

import shutil
import subprocess
import warnings

import pytest
from file_failures import KNOWN

from relight import check
from relight.core.finding import Verdict

FILES = [pytest.param(cause, name, id=f"{cause}-{name}") for cause, known in KNOWN.items() for name in known.files]
# Files that a command of ours makes readable again, from what is in them.
REPAIRED = [
    ("bytes-before-archive", "HTTP header", "tail -c"),
    ("zip-no-subdirectory", "records without their folder", "zip -0 -r"),
    ("zip-no-version-record", "version", "zipfile"),
    ("compressed-or-other-format", "gzip", "gzip -dc"),
    ("compressed-or-other-format", "bzip2", "bzip2 -dc"),
    ("compressed-or-other-format", "xz", "xz -dc"),
    ("tar-wrapped", "tar", "tar -xf"),
    ("zip-no-subdirectory", "a checkpoint in a zip", "unzip"),
]


def _load(path, weights_only=None):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=weights_only)


@pytest.mark.parametrize("weights_only", [None, True, False])
@pytest.mark.parametrize("cause, name", FILES)
def test_what_torch_says(cause, name, weights_only, folder):
    path = folder / "model.ckpt"
    path.write_bytes(KNOWN[cause].files[name]())
    report = check(path, intent="weights", weights_only=weights_only)
    try:
        loaded = _load(path, weights_only)
    except BaseException as error:
        real = error
    else:
        # torch.load gives a program for TorchScript, which is no checkpoint.
        real = None if cause != "torchscript-archive" else loaded
    assert (report.verdict is Verdict.FAILS) is (real is not None)
    if report.prediction is not None:
        assert type(real).__name__ == report.prediction.exception.rpartition(".")[2]
        assert report.prediction.message in str(real)


@pytest.mark.parametrize("cause, name, tool", REPAIRED)
def test_a_repair_that_is_printed_works(cause, name, tool, folder):
    if tool != "zipfile" and shutil.which(tool.split()[0]) is None:
        pytest.skip(f"there is no {tool.split()[0]}")
    given = folder / "given.ckpt"
    given.write_bytes(KNOWN[cause].files[name]())
    (finding,) = check("given.ckpt", intent="weights").findings
    fix = next(f for f in finding.fixes if tool in f"{f.command}{f.code}")
    if fix.command is not None:
        subprocess.run(fix.command, shell=True, cwd=folder, check=True, capture_output=True, timeout=60)
    else:
        exec(fix.code, {})
    sound = [p for p in folder.rglob("*") if p.is_file() and check(p, intent="weights").verdict is not Verdict.FAILS]
    assert len(sound) == 1
    assert _load(sound[0])


@pytest.mark.parametrize("cause, name", FILES)
def test_advice_that_cannot_work_is_called_so(cause, name, folder):
    """Where torch suggests weights_only=False, and relight says that it is vain, it is."""
    path = folder / "model.ckpt"
    path.write_bytes(KNOWN[cause].files[name]())
    report = check(path, intent="weights", weights_only=True)
    vain = [c for f in report.findings for c in f.context if c.startswith("weights_only=False, which torch's message")]
    if vain:
        with pytest.raises(Exception, match="will likely succeed"):
            _load(path, weights_only=True)
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever it is: it does not load)
            _load(path, weights_only=False)


def test_a_web_page_is_not_made_readable_by_an_argument(folder):
    (folder / "model.ckpt").write_bytes(b"<html><body>404</body></html>")
    report = check("model.ckpt", intent="weights", weights_only=True)
    assert "cannot help: it cannot be read that way either." in " ".join(str(report).split())
    assert "cannot help" not in str(check("model.ckpt", intent="weights", weights_only=False))


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("weights_only", [None, False])
@pytest.mark.parametrize("tensor_first", [True, False])
def test_of_two_errors_in_the_pickle_the_first_is_predicted(tensor_first, weights_only, legacy, folder):
    import types

    import torch

    gone = types.ModuleType("gone_module")
    gone.Settings = type("Settings", (), {"__module__": "gone_module"})
    parts = [("state_dict", {"w": torch.ones(2)}), ("settings", gone.Settings())]
    tagging = torch.serialization.location_tag
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "gone_module", gone)
        patch.setattr(torch.serialization, "location_tag", lambda storage: tagging(storage) and "cuda:0")
        torch.save(
            dict(parts if tensor_first else reversed(parts)), "model.ckpt", _use_new_zipfile_serialization=not legacy
        )
    report = check(folder / "model.ckpt", intent="weights", weights_only=weights_only)
    raised = None
    try:
        _load("model.ckpt", weights_only)
    except Exception as error:
        raised = error
    assert {f.name for f in report.findings} >= {"device-absent"}
    assert report.prediction == next(f.predicts for f in report.findings), "shown first is what is raised first"
    assert type(raised).__name__ == report.prediction.exception.rpartition(".")[2]
    assert report.prediction.message in str(raised)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relight.core.errors import UsageError
from relight.core.target import Environment
from relight.reader import installed
from relight.reader.installed import (
    ModuleStatus,
    count_cuda_devices,
    current_environment,
    environment_from,
    environment_of,
    resolve_module,
)

SUFFIX = installed.EXTENSION_SUFFIXES[0]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    mine = str(tmp_path / "src" / "mine")
    write(
        tmp_path,
        {
            "first/torch-2.1.0+cpu.dist-info/METADATA": "",
            "first/shadow-2.0.dist-info/METADATA": "",
            "first/models.py": "",
            "site/shadow-1.0.dist-info/METADATA": "",
            "site/pytorch_lightning-1.8.0.dist-info/METADATA": "",
            "site/Old.Style-0.3-py3.10.egg-info": "",
            "site/develop.egg-info/PKG-INFO": "Metadata-Version: 1\nVersion: 7.1\n\nVersion: 9\n",
            "site/nothing.egg-info/PKG-INFO": "",
            "site/models.py": "",
            "site/package/__init__.py": "",
            "site/package/sub.py": "",
            f"site/package/fast{SUFFIX}": "",
            f"site/single{SUFFIX}": "",
            "site/space/part.py": "",
            "first/space/other.py": "",
            "site/extended/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)",
            "first/extended/inner.py": "",
            "site/not-a-name.py": "",
            "site/__pycache__/x.py": "",
            "site/__editable___mine_1_0_finder.py": f"MAPPING: dict[str, str] = {{'mine': {mine!r}}}\n",
            "src/mine/__init__.py": "",
            "src/mine/deep.py": "",
        },
    )
    path = [str(tmp_path / "first"), str(tmp_path / "site"), str(tmp_path / "absent")]
    return environment_from(path, python="3.10.4", platform="linux")


def test_packages_and_modules(environment):
    assert environment.packages == {
        "torch": "2.1.0+cpu",
        "shadow": "2.0",
        "pytorch-lightning": "1.8.0",
        "old-style": "0.3",
        "develop": "7.1",
    }
    assert environment.modules == {"models", "package", "single", "space", "extended", "mine"}
    assert environment.complete
    assert (environment.python, environment.platform, environment.mps) == ("3.10.4", "linux", False)
    assert environment.cuda_devices == 0  # whatever the machine has, this torch cannot use it
    assert environment.memory is None or environment.memory > 0


@pytest.mark.parametrize(
    "name, status, path",
    [
        ("models", ModuleStatus.SOURCE, "first/models.py"),
        ("package", ModuleStatus.SOURCE, "site/package/__init__.py"),
        ("package.sub", ModuleStatus.SOURCE, "site/package/sub.py"),
        ("package.fast", ModuleStatus.EXTENSION, None),
        ("single", ModuleStatus.EXTENSION, None),
        ("single.inside", ModuleStatus.UNKNOWN, None),
        ("space", ModuleStatus.NAMESPACE, "first/space"),
        ("space.part", ModuleStatus.SOURCE, "site/space/part.py"),
        ("extended.inner", ModuleStatus.SOURCE, "first/extended/inner.py"),
        ("mine.deep", ModuleStatus.SOURCE, "src/mine/deep.py"),
        ("sys", ModuleStatus.STDLIB, None),
        ("collections", ModuleStatus.STDLIB, None),
        ("absent", ModuleStatus.ABSENT, None),
        ("package.absent", ModuleStatus.ABSENT, None),
    ],
)
def test_where_modules_are(environment, tmp_path, name, status, path):
    found = resolve_module(name, environment)
    assert (found.status, found.path) == (status, None if path is None else str(tmp_path / path))
    if status is ModuleStatus.ABSENT:
        assert found.missing == name


def test_without_a_path_only_top_level_names_are_known(environment):
    pinned = Environment.from_dict({"python": "3.10", "torch": "2.1"})
    assert resolve_module("models", pinned).status is ModuleStatus.UNKNOWN
    assert resolve_module("argparse", pinned).status is ModuleStatus.STDLIB
    saved = Environment.from_dict(environment.to_dict())
    assert resolve_module("models.sub", saved).status is ModuleStatus.UNKNOWN
    assert resolve_module("my_custom_module.sub", saved).status is ModuleStatus.ABSENT


def test_modules_in_zip_files_are_not_called_absent(environment, tmp_path):
    (tmp_path / "more.zip").write_bytes(b"PK")
    wider = environment.on_this_path((*environment.search_path, str(tmp_path / "more.zip")))
    assert resolve_module("absent", wider).status is ModuleStatus.UNKNOWN


def test_this_interpreter():
    here = current_environment()
    assert here.python == ".".join(str(n) for n in sys.version_info[:3])
    assert "packaging" in here.packages
    found = resolve_module("packaging.version", here)
    assert found.status is ModuleStatus.SOURCE
    assert found.path is not None
    assert os.path.isfile(found.path)
    assert resolve_module("json.decoder", here).status is ModuleStatus.STDLIB
    assert resolve_module("os.path", here).status is ModuleStatus.STDLIB
    assert resolve_module("relight.core.target", here).status is ModuleStatus.SOURCE


def test_another_interpreter_with_the_users_path(tmp_path, monkeypatch):
    write(tmp_path, {"only_here.py": ""})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    there = environment_of(sys.executable)
    assert resolve_module("only_here", there).status is ModuleStatus.SOURCE
    assert there.origin == sys.executable
    assert environment_of(None).origin == "this machine"


@pytest.mark.parametrize("python", ["no/such/python", os.devnull])
def test_what_is_no_interpreter(python):
    with pytest.raises(UsageError, match="does not run as a Python interpreter"):
        environment_of(python)


def test_a_virtual_environment_by_its_folder(tmp_path):
    write(tmp_path, {"bin/python": ""})
    assert installed.executable(str(tmp_path)) == str(tmp_path / "bin" / "python")


@pytest.mark.parametrize("visible, count", [("", 0), ("-1", 0), ("-1,0", 0), ("NoDevFiles", None)])
def test_hidden_devices(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count is None or count_cuda_devices() == count


def test_devices_are_counted_without_torch(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "listdir", lambda path: ["0000:01:00.0", "0000:02:00.0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert count_cuda_devices() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert count_cuda_devices() == 1


def test_nothing_heavy_is_imported():
    code = "import sys, relight.reader.installed as i; i.current_environment();"
    code += "print([m for m in ('torch', 'numpy', 'importlib.metadata', 'email') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_package_with_compiled_parts(tmp_path) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    for name in ("pure/sub/__init__.py", "pure/sub/deep.py", "fast/sub/deep.py", f"fast/_core{EXTENSION_SUFFIXES[0]}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert not installed.is_compiled(str(tmp_path / "pure/sub/deep.py"), "pure.sub.deep")
    assert not installed.is_compiled(str(tmp_path / "pure/sub/__init__.py"), "pure.sub")
    assert installed.is_compiled(str(tmp_path / "fast/sub/deep.py"), "fast.sub.deep")

"""The oracle: what relight says that loading will do, the real libraries are made to do."""

from __future__ import annotations

import pathlib
import sys

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/oracle/" in item.nodeid or item.nodeid.startswith("oracle/"):
            item.add_marker("torch")


@pytest.fixture(scope="session", autouse=True)
def real_libraries() -> None:
    """Import them once, with their own warnings, and only where the versions are those of the development extra."""
    import warnings

    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning
        import torch
    if not torch.__version__.startswith("2.13.0") or pytorch_lightning.__version__ != "2.6.6":
        pytest.skip("the oracle is torch 2.13.0 with Lightning 2.6.6")
    if torch.cuda.is_available():
        pytest.skip("the examples describe a machine without a GPU")
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is the working directory and on the path, as with ``python load.py``."""
    before = set(sys.modules)
    for name in ("PosixPath", "WindowsPath"):  # pasted programs put one in the other's place
        monkeypatch.setattr(pathlib, name, getattr(pathlib, name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"example_module", "models", "my_custom_module"} or name.startswith("real_model_"):
            del sys.modules[name]

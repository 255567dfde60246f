"""Checkpoints that the real Lightning trained, in a folder of the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from user_folder import CUSTOM_MODULE, TRAIN, Folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of Lightning 2.6, ten epochs of four batches each."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my_custom_module.py").write_text(CUSTOM_MODULE, encoding="utf-8")  # it is not copied with the files
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAIN], cwd=folder, check=True, capture_output=True, timeout=300
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with copies of the checkpoints."""
    for file in trained.glob("*.ckpt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return Folder(tmp_path, tmp_path_factory.mktemp("cache"))

"""Whatever ends the program: the file is as it was, and the new name leads to the whole new file or to nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest
from repairing import plan_of, repaired, rows

from relight.core.edits import RenameKeys
from relight.core.errors import RepairError
from relight.repair.rewriter import rewrite
from relight.rulekit import File
from relight.testing import write

RENAME = RenameKeys((("net.weight", "head.weight"),))

# Kills itself at the n-th call that changes something on the disk.
PROGRAM = """
import os, signal, sys, tempfile
sys.path.insert(0, sys.argv[4])
from relight.core.edits import RenameKeys
from repairing import plan_of
from relight.repair.rewriter import rewrite
left = int(sys.argv[3])
plan = plan_of(sys.argv[1], RenameKeys((("net.weight", "head.weight"),)))
def deadly(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("pwrite", "copy_file_range", "sendfile", "fsync", "fchmod", "ftruncate", "replace", "close"):
    if hasattr(os, name):
        setattr(os, name, deadly(getattr(os, name)))
tempfile.mkstemp = deadly(tempfile.mkstemp)
rewrite(plan, sys.argv[1], sys.argv[2])
print("done", left)
"""


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return write(File(tensors={"net.weight": (700, 300), "net.bias": (3,)}), folder / "model.ckpt")


def test_killed_at_every_step(file, tmp_path):
    before = file.read_bytes()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    support = os.path.dirname(sys.modules["repairing"].__file__)
    steps = 0
    for number in range(1, 100):
        output = file.with_name(f"out{number}.ckpt")
        run = subprocess.run(
            [sys.executable, str(program), str(file), str(output), str(number), support], capture_output=True, text=True
        )
        assert file.read_bytes() == before
        if output.exists():
            assert list(rows(output)) == ["head.weight", "net.bias"]
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        steps += 1
    assert steps >= 6, "it was killed while writing, before, while and after the new name was given"
    assert output.exists()


def test_a_full_disk(file):
    output = file.with_name("out.ckpt")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 1000, 100_000, 840_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(RepairError, match="cannot be written"):
                rewrite(plan_of(file, RENAME), str(file), str(output))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.listdir(file.parent) == ["model.ckpt"], "no half file is left, under no name"


def test_a_folder_that_nobody_may_write_to(file, tmp_path):
    with pytest.raises(RepairError, match="cannot be written"):
        rewrite(plan_of(file, RENAME), str(file), str(tmp_path / "gone" / "out.ckpt"))


@pytest.mark.parametrize("lacking", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_every_way_of_copying(file, monkeypatch, lacking):
    """Where a kernel or a file system cannot copy, the next way does, with the same result."""
    for name in lacking:

        def fails(*_):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(os, name, fails)
    output = file.with_name("out.ckpt")
    repaired(file, output, RENAME)
    assert [row[5] for row in rows(output).values()] == [row[5] for row in rows(file).values()]


def test_holes_stay_holes(tmp_path):
    """A sparse file of a benchmark does not take room only because it was copied."""
    file = write(File(tensors={"net.weight": (2, 3)}), tmp_path / "model.ckpt")
    big = tmp_path / "big.ckpt"
    with open(big, "wb") as f:
        f.truncate(64 << 20)
    source = os.open(big, os.O_RDONLY)
    target = os.open(tmp_path / "copy.ckpt", os.O_RDWR | os.O_CREAT)
    from relight.repair.copying import copy_range

    copied = []
    copy_range(source, 0, 64 << 20, target, 0, copied.append)
    os.ftruncate(target, 64 << 20)
    assert sum(copied) == 64 << 20
    assert os.fstat(target).st_blocks * 512 < 1 << 20
    os.close(source)
    os.close(target)
    assert file.exists()

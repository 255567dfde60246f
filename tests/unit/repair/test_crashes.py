"""Whatever ends the program: the file is as it was, and the new name leads to the whole new file or to nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from repairing import plan_of, repaired, rows

from relight.core.edits import RenameKeys
from relight.core.errors import RepairError
from relight.repair.converting import convert
from relight.repair.rewriter import rewrite
from relight.rulekit import File, Tensor
from relight.testing import write

RENAME = RenameKeys((("net.weight", "head.weight"),))

# Repairs in one process after another, each of which kills itself at the next call that changes something on the disk.
PROGRAM = """
import json, os, signal, sys, tempfile
import relight
from relight.core.edits import Plan, RenameKeys
from relight.core.target import ModelSpec, ParamSpec
from relight.repair import proof
from relight.repair.rewriter import digest_of
path, output = sys.argv[1:]
rename = RenameKeys((("net.weight", "head.weight"), ("net.bias", "head.bias")))
plan = Plan(source=path, digest=digest_of(path), edits=(rename,))
params = (ParamSpec("head.weight", "float32", (700, 300), "parameter"), ParamSpec("head.bias", "float32", (3,), "parameter"))
target = ModelSpec(class_name="Net", class_path="net:Net", kind="module", params=params)

def deadly(owner, name):
    function = getattr(owner, name, None)
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.write(said, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    if function is not None:
        setattr(owner, name, call)

relight.check(path, target=target)  # what is imported is there before it is forked
CALLS = ("open", "pwrite", "copy_file_range", "sendfile", "fchmod", "ftruncate", "fsync", "close", "replace", "unlink")
for number in range(1, 100):
    read, said = os.pipe()
    child = os.fork()
    if child == 0:
        left = number
        for name in CALLS:
            deadly(os, name)
        deadly(proof, "compared")
        deadly(tempfile, "mkstemp")
        try:
            relight.fix(path, output, target=target, plan=plan)
        except BaseException as error:
            os.write(said, repr(error).encode())
            os._exit(9)
        os._exit(0)
    os.close(said)
    status = os.waitpid(child, 0)[1]
    killed_at = os.read(read, 100).decode()
    os.close(read)
    print(json.dumps([killed_at, os.waitstatus_to_exitcode(status), os.path.exists(output), sorted(os.listdir())]))
    if not os.WIFSIGNALED(status):
        break
    if os.path.exists(output):
        os.rename(output, f"{output}.{number}")
    for name in os.listdir():
        if name.startswith("."):
            os.unlink(name)
"""


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return write(File(tensors={"net.weight": (700, 300), "net.bias": (3,)}), folder / "model.ckpt")


def test_killed_at_every_step(file, tmp_path):
    """The name leads to a file that was proved, or nowhere; what is left is hidden, says whose it is, and goes away."""
    before = file.read_bytes()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, "model.ckpt", "out.ckpt"], cwd=file.parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    steps = [json.loads(line) for line in run.stdout.splitlines()]
    assert file.read_bytes() == before
    calls = [s[0] for s in steps]
    assert {"mkstemp", "pwrite", "copy_file_range", "ftruncate", "fchmod", "fsync", "compared", "replace"} <= set(calls)
    assert calls.index("fsync") < calls.index("compared") < calls.index("replace")
    for number, (call, status, there, names) in enumerate(steps[:-1]):
        assert status == -signal.SIGKILL, call
        assert there == (number > calls.index("replace"))
        left = [n for n in names if n != "model.ckpt" and not n.startswith("out.ckpt")]
        assert all(n.startswith(".out.ckpt.") and n.endswith(".relight") for n in left)
    assert steps[-1][:3] == ["", 0, True]
    assert not any(n.startswith(".") for n in steps[-1][3])
    for output in file.parent.glob("out.ckpt*"):
        assert list(rows(output)) == ["head.weight", "head.bias"]
    assert calls[calls.index("replace") + 1 :].count("fsync") == 1, "the folder"


def test_what_an_interrupted_run_has_left(file):
    """It is removed and said; what another run is writing, and what only looks like it, stays."""
    import fcntl

    names = (".out.ckpt.a1b2c3.relight", ".out.ckpt.running.relight", ".out.ckpt.mine", ".other.ckpt.a1.relight")
    for name in names:
        file.with_name(name).write_bytes(b"half")
    said = []
    with open(file.with_name(names[1])) as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        rewrite(plan_of(file, RENAME), str(file), str(file.with_name("out.ckpt")), announce=said.append)
    assert said == [f"{names[0]} is removed: a run that was interrupted has left it"]
    assert sorted(os.listdir(file.parent)) == sorted(["model.ckpt", "out.ckpt", *names[1:]])


def test_the_permissions_are_those_of_the_file(file):
    file.chmod(0o640)
    repaired(file, file.with_name("out.ckpt"), RENAME)
    assert stat.S_IMODE(file.with_name("out.ckpt").stat().st_mode) == 0o640


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


# The same for convert: one process after another, each of which kills itself at the next call that changes something on the
# disk, before it or when half of it is written.
CONVERT = """
import json, os, signal, sys, tempfile
from relight.repair import copying
from relight.repair.converting import convert
source, name = sys.argv[1:]
copying._BEHIND = 100_000  # the thread that writes behind has its turns, too
def deadly(owner, name):
    function = getattr(owner, name, None)
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.write(said, name.encode())
            if half and name == "pwrite":
                function(args[0], memoryview(args[1])[: len(args[1]) // 2], args[2])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    if function is not None:
        setattr(owner, name, call)
for half in (False, True):
    through = 0  # how often the thread had a turn differs: a few runs are to come to their end
    for number in range(1, 200):
        folder = f"{number}-{half}"
        os.mkdir(folder)
        read, said = os.pipe()
        child = os.fork()
        if child == 0:
            left = [number]
            for call in ("pwrite", "copy_file_range", "sendfile", "fsync", "fdatasync", "fchmod", "ftruncate", "replace"):
                deadly(os, call)
            deadly(tempfile, "mkstemp")
            convert(source, f"{folder}/{name}")
            os._exit(0)
        os.close(said)
        status = os.waitpid(child, 0)[1]
        print(json.dumps([folder, os.read(read, 100).decode(), status, sorted(os.listdir(folder))]))
        os.close(read)
        through += not os.WIFSIGNALED(status)
        if through == 4:
            break
"""
FOLDERS = Path(__file__).parents[2] / "corpus" / "reader" / "folders"


@pytest.mark.parametrize("source", ["a file", "fsdp2"])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_conversions_killed_at_every_step(suffix, source, tmp_path):
    """The file that was asked for comes last: where it is, all that belongs to it is there and whole."""
    if source == "a file":
        path = write(File(tensors={"w": (300, 300)}, extra={"opt": Tensor((300, 300))}), tmp_path / "model.ckpt")
    else:
        path = shutil.copytree(FOLDERS / source, tmp_path / source)
    before = contents(path)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", CONVERT, str(path), f"out.{suffix}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "out")
    assert run.returncode == 0, run.stderr
    steps = [json.loads(line) for line in run.stdout.splitlines()]
    assert contents(path) == before
    truth = None
    whole = ["out.ckpt"] if suffix == "ckpt" else [f"out.{s}" for s in REST]
    for folder, call, status, found in reversed(steps):
        assert status == (signal.SIGKILL if call else 0)
        names = [n for n in found if not n.startswith(".")]
        assert all(n.endswith(".relight") for n in found if n not in names)
        if f"out.{suffix}" not in names:
            assert set(names) <= set(whole) - {f"out.{suffix}"}
            continue
        assert names == sorted(whole)
        made = [(tmp_path / "out" / folder / n).read_bytes() for n in names]
        assert made == (truth := truth or made), "every one is the same file"
    assert convert(str(tmp_path / "out" / steps[-1][0] / f"out.{suffix}"), str(tmp_path / "again.ckpt")).proved
    assert {"pwrite", "fsync", "fchmod", "ftruncate", "replace", "mkstemp"} <= {call for _, call, _, _ in steps}


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {p.name: p.read_bytes() for p in files}


REST = ("safetensors", "rest.json", "rest.safetensors")

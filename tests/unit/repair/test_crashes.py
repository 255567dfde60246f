"""Whatever ends the program: the file is as it was, and the new name leads to the whole new file or to nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys

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


# The same for convert: kills itself at the n-th call that changes something on the disk.
CONVERT = """
import os, signal, sys, tempfile
from relight.repair.converting import convert
left = int(sys.argv[3])
def deadly(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("pwrite", "copy_file_range", "sendfile", "fsync", "fchmod", "ftruncate", "replace"):
    if hasattr(os, name):
        setattr(os, name, deadly(getattr(os, name)))
tempfile.mkstemp = deadly(tempfile.mkstemp)
convert(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_conversions_killed_at_every_step(suffix, tmp_path):
    """The file that was asked for comes last: where it is, all that belongs to it is there and whole."""
    file = write(File(tensors={"w": (300, 300)}, extra={"opt": Tensor((300, 300))}), tmp_path / "model.ckpt")
    before = file.read_bytes()
    program = tmp_path / "program.py"
    program.write_text(CONVERT)
    done = 0
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        output = folder / f"out.{suffix}"
        command = [sys.executable, str(program), str(file), str(output), str(number)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert file.read_bytes() == before
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        if output.exists():
            assert names == ({"out.ckpt"} if suffix == "ckpt" else {f"out.{s}" for s in REST})
            assert convert(str(output), str(folder / "again.ckpt")).proved
        else:
            assert names <= {"out.rest.json", "out.rest.safetensors"}
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        done += 1
    assert done >= 6
    assert output.exists()


REST = ("safetensors", "rest.json", "rest.safetensors")

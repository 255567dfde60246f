"""``fix --in-place``: the old bytes stay, whatever ends the program leaves the old file or the new one, and it is taken back."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from repairing import plan_of, rows

import relight
from relight.core.edits import ConvertTensors, DropKeys, MakePlain, RenameKeys, SetEntry
from relight.core.errors import RepairError
from relight.core.objects import mapping_get
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import DEFAULT_LIMITS, open_checkpoint
from relight.reader.archive import Archive
from relight.reader.source import LocalSource
from relight.repair import in_place
from relight.repair.in_place import heal, journal_of, rewrite_in_place, undo
from relight.rulekit import File, Obj
from relight.testing import write

RENAME = RenameKeys((("net.weight", "head.weight"),))
FULL = Path(__file__).parents[2] / "corpus" / "checkpoints" / "E26" / "full.ckpt"


@pytest.fixture
def file(tmp_path):
    return write(File(tensors={"net.weight": (70, 3), "net.bias": (3,)}, hparams={"lr": 0.1}), tmp_path / "model.ckpt")


def repaired(path, *edits):
    return rewrite_in_place(plan_of(path, *edits), str(path))


def test_names_change_and_no_old_byte(file):
    before, whole = rows(file), file.read_bytes()
    written = repaired(file, RENAME)
    after = rows(file)
    assert list(after) == ["head.weight", "net.bias"]
    assert list(after.values()) == list(before.values())
    assert file.read_bytes().startswith(whole)
    assert safety(open_checkpoint(file)) is Safety.OK
    assert relight.verify(file).ok
    assert written.untouched == 2
    assert os.listdir(file.parent) == ["model.ckpt"]
    assert undo(str(file)) == len(whole)
    assert file.read_bytes() == whole
    with pytest.raises(RepairError, match="nothing to take back"):
        undo(str(file))
    assert file.read_bytes() == whole


def test_a_real_file_twice(tmp_path):
    path = tmp_path / "full.ckpt"
    shutil.copy(FULL, path)
    versions = [path.read_bytes()]
    for edit in (RenameKeys((("net.0.weight", "a"),)), SetEntry(("hyper_parameters", "lr"), 0.5), DropKeys(("a",))):
        repaired(path, edit)
        assert open_checkpoint(path).problems == ()
        versions.append(path.read_bytes())
    found = open_checkpoint(path)
    assert [t.key for t in found.tensors] == ["net.0.bias", "net.2.weight", "net.2.bias"]
    assert mapping_get(mapping_get(found.root, "hyper_parameters"), "lr") == 0.5
    assert ".data/serialization_id" in {r.name for r in found.records}
    for before in reversed(versions[:-1]):
        undo(str(path))
        assert path.read_bytes() == before


def test_a_new_file_has_nothing_of_the_old_version(file, tmp_path):
    repaired(file, RENAME)
    assert b"net.weight" in file.read_bytes()
    relight.convert(file, tmp_path / "new.ckpt")
    assert b"net.weight" not in (tmp_path / "new.ckpt").read_bytes()
    assert list(rows(tmp_path / "new.ckpt")) == ["head.weight", "net.bias"]


# ---------------------------------------------------------------- refused where it could hurt


def linked(path: Path) -> Path:
    link = path.with_name("link.ckpt")
    link.symlink_to(path)
    return link


def named_twice(path: Path) -> Path:
    os.link(path, path.with_name("other.ckpt"))
    return path


def read_only(path: Path) -> Path:
    path.chmod(0o444)
    return path


@pytest.mark.parametrize(
    "change, said",
    [(linked, "it is a link"), (named_twice, "2 names"), (read_only, "read-only")],
    ids=["a link", "two names", "read-only"],
)
def test_files_that_others_may_use(change, said, file):
    before = file.read_bytes()
    path = change(file)
    with pytest.raises(RepairError, match=said):
        repaired(path, RENAME)
    assert file.read_bytes() == before


def test_other_refusals(file, tmp_path):
    before = file.read_bytes()
    with pytest.raises(RepairError, match="put together"):
        repaired(file, ConvertTensors((("two", ("net.bias", "net.bias"), "concat:0", (6,)),)))
    with pytest.raises(RepairError, match="would stay in the file"):
        repaired(file, MakePlain(objects=True))
    assert file.read_bytes() == before
    bad = write(
        File(tensors={"net.weight": (2,)}, hparams={"x": Obj("os.system", args=("true",))}), tmp_path / "bad.ckpt"
    )
    with pytest.raises(RepairError, match="would stay in the file"):
        repaired(bad, DropKeys(("net.weight",)))
    old = write(File(tensors={"net.weight": (2,)}, legacy=True), tmp_path / "old.ckpt")
    with pytest.raises(RepairError, match="torch-legacy, which cannot be appended to"):
        repaired(old, RENAME)
    file.write_bytes(before + b"more")
    with pytest.raises(RepairError, match="something is wrong with it"):
        repaired(file, RENAME)


def test_a_proof_that_fails_takes_it_back(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(in_place, "compared", lambda *_: [("read again", False, "it is not what it should be")])
    plan = plan_of(file, RENAME)
    with pytest.raises(RepairError, match="it is what it was, the proof fails"):
        relight.fix(file, None, in_place=True, plan=plan)
    assert file.read_bytes() == before


# ---------------------------------------------------------------- interrupted

# Kills itself at the n-th call that changes something on the disk.
PROGRAM = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from relight.core.edits import RenameKeys
from repairing import plan_of
from relight.repair.in_place import rewrite_in_place
left = int(sys.argv[2])
plan = plan_of(sys.argv[1], RenameKeys((("net.weight", "head.weight"),)))
def deadly(function, after):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        if left == 0 and function is pwrite:  # half of it is written
            pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
            os.kill(os.getpid(), signal.SIGKILL)
        out = function(*args, **kwargs)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return out
    return call
pwrite = os.pwrite
for name in ("pwrite", "fsync", "unlink", "ftruncate"):
    setattr(os, name, deadly(getattr(os, name), sys.argv[4] == "after"))
rewrite_in_place(plan, sys.argv[1])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step(file, tmp_path, when):
    before = file.read_bytes()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    support = os.path.dirname(sys.modules["repairing"].__file__)
    outcomes = []
    for number in range(1, 100):
        run = subprocess.run(
            [sys.executable, str(program), str(file), str(number), support, when], capture_output=True, text=True
        )
        interrupted = run.returncode != 0
        assert not interrupted or run.returncode == -signal.SIGKILL, run.stderr
        journal = os.path.exists(journal_of(str(file)))
        assert journal or not interrupted or file.read_bytes() == before or next(iter(rows(file))) == "head.weight"
        healed = heal(str(file))
        assert bool(healed) == journal
        assert not os.path.exists(journal_of(str(file)))
        assert file.read_bytes().startswith(before)
        now = list(rows(file))
        outcomes.append(now[0])
        assert now == ["net.weight", "net.bias"] if file.read_bytes() == before else ["head.weight", "net.bias"]
        if not interrupted:
            break
        file.write_bytes(before)
    assert outcomes[0] == "net.weight"
    assert outcomes[-1] == "head.weight"
    assert len(outcomes) >= 7


def test_torn_anywhere(file, monkeypatch):
    """A power cut may leave any part of what was appended, with holes: only the whole of it counts."""
    before = file.read_bytes()
    monkeypatch.setattr(in_place, "_drop_journal", lambda path: None)
    repaired(file, RENAME)
    whole, journal = file.read_bytes(), Path(journal_of(str(file))).read_bytes()
    monkeypatch.undo()
    cuts = [*range(len(before), len(whole), 37), len(whole)]
    torn = [(whole[:at], at == len(whole)) for at in cuts]
    torn += [(whole[: len(before)] + bytes(len(whole) - len(before)), False), (whole[:-30] + bytes(30), False)]
    torn += [(whole + b"\0" * 100, False)]
    for content, complete in torn:
        file.write_bytes(content)
        Path(journal_of(str(file))).write_bytes(journal)
        heal(str(file))
        assert file.read_bytes() == (whole if complete else before)
    # A journal that was not written to its end: the file was not touched yet.
    file.write_bytes(before)
    Path(journal_of(str(file))).write_bytes(journal[:20])
    assert heal(str(file)) == "an interrupted repair had not begun to write"
    assert heal(str(file)) == ""
    # Somebody has written another file since: nobody knows better than the user.
    for other in (b"x" + before[1:-1] + b"x", before[:-10]):
        file.write_bytes(other)
        Path(journal_of(str(file))).write_bytes(journal)
        with pytest.raises(RepairError, match="another state of it"):
            heal(str(file))
        assert file.read_bytes() == other
        assert os.path.exists(journal_of(str(file)))


def test_the_next_fix_heals(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(in_place, "_drop_journal", lambda path: None)
    repaired(file, RENAME)
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:-5])
    said = []
    with pytest.raises(RepairError):
        relight.fix(file, file.with_name("copy.ckpt"), announce=said.append)
    assert file.read_bytes() == before
    assert said == [f"{file}: an interrupted repair was taken back"]


def test_a_full_disk(file):
    import resource

    before = file.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (10, 200, 900):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limit[1]))
        try:
            with pytest.raises(RepairError, match="cannot be written"):
                repaired(file, RENAME)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert file.read_bytes() == before
        assert os.listdir(file.parent) == ["model.ckpt"]


# ---------------------------------------------------------------- files that only claim to be so


def test_a_hidden_pickle_is_seen(tmp_path):
    """The old version is what programs see that read from the front: it is judged like the new one."""
    path = write(File(tensors={"w": (2,)}, hparams={"x": Obj("os.system", args=("true",))}), tmp_path / "x.ckpt")
    clean = write(File(tensors={"w": (2,)}), tmp_path / "clean.ckpt")
    found = open_checkpoint(clean)
    pickle = clean.read_bytes()[found.records[0].span.start : found.records[0].span.end]
    names = frozenset(r.name for r in open_checkpoint(path).records)
    source = LocalSource(path)
    addition = in_place._addition(Archive(source, DEFAULT_LIMITS), pickle, names)
    source.close()
    path.write_bytes(path.read_bytes() + addition.body + addition.end)
    now = open_checkpoint(path)
    assert now.root is not None
    assert safety(now) is Safety.DANGEROUS


@pytest.mark.parametrize("harm", ["other size", "moved record", "broken old end"])
def test_a_false_mark_is_no_excuse(harm, file):
    repaired(file, RENAME)
    data = bytearray(file.read_bytes())
    size = len(data) and open_checkpoint(file).records[0].span.start
    mark = data.index(b"RL\x08\x00")
    (old,) = struct.unpack_from("<Q", data, mark + 4)
    assert old < size
    if harm == "other size":
        struct.pack_into("<Q", data, mark + 4, old - 1)
    elif harm == "moved record":
        at = data.rindex(b"data/0") - 46
        data[at + 16] ^= 1  # the checksum of a record in the new directory
    else:
        data[old - 22 : old - 18] = b"none"
    file.write_bytes(bytes(data))
    assert open_checkpoint(file).problems != ()
    if harm != "moved record":
        with pytest.raises(RepairError):
            undo(str(file))

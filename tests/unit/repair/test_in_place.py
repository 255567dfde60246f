"""``fix --in-place``: the old bytes stay, whatever ends the program leaves the old file or the new one, and it is taken back."""

from __future__ import annotations

import json
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

# Each action runs in one process after another, each of which kills itself at the next call that changes something on the
# disk: before it, when half of it is written, or after it.
PROGRAM = """
import contextlib, json, os, signal, sys
path, support = sys.argv[1:]
sys.path.insert(0, support)
from relight.core.edits import RenameKeys
from relight.core.errors import RepairError
from relight.repair import in_place
from repairing import plan_of

def contents(name=path):
    with open(name, "rb") as file:
        return file.read()

def put(data, journal=None):
    with open(path, "wb") as file:
        file.write(data)
    if journal is not None:
        with open(in_place.journal_of(path), "wb") as file:
            file.write(journal)

plan = plan_of(path, RenameKeys((("net.weight", "head.weight"),)))
old = contents()

def fix():
    in_place.rewrite_in_place(plan, path)

def refuse(*_):
    raise RepairError(path, "the proof fails")

def fix_badly():
    with contextlib.suppress(RepairError):
        in_place.rewrite_in_place(plan, path, prove=refuse)

fix()
new = contents()
put(old)

# A journal and a torn end, as a kill in the middle leaves them.
drop, in_place._drop_journal = in_place._drop_journal, lambda path: None
fix()
journal = contents(in_place.journal_of(path))
os.unlink(in_place.journal_of(path))
in_place._drop_journal = drop

def deadly(owner, name, number, when, said):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0]:
            return function(*args, **kwargs)
        os.write(said, name.encode())
        if when == "half" and name == "pwrite":
            function(args[0], args[1][: len(args[1]) // 2], args[2])
        elif when == "after":
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, call)

torn = old + new[len(old) : len(old) + 500]
for action, start in ((fix, (old,)), (fix_badly, (old,)), (in_place.heal, (torn, journal)), (in_place.undo, (new,))):
    for when in ("before", "half", "after"):
        for number in range(1, 100):
            put(*start)
            read, said = os.pipe()
            child = os.fork()
            if child == 0:
                left = [number]
                for name in ("pwrite", "fsync", "unlink", "ftruncate"):
                    deadly(os, name, number, when, said)
                deadly(in_place, "compared", number, when, said)
                action(*(() if action in (fix, fix_badly) else (path,)))
                os._exit(0)
            os.close(said)
            status = os.waitpid(child, 0)[1]
            call = os.read(read, 100).decode()
            os.close(read)
            journaled = os.path.exists(in_place.journal_of(path))
            found = contents()
            healed = in_place.heal(path)
            state = {old: "old", new: "new"}.get(contents(), "neither")
            print(json.dumps([action.__name__, when, call, status, journaled, healed, found in (old, new), state]))
            if not os.WIFSIGNALED(status):
                break
"""


def test_killed_at_every_step(file):
    """The file is the old one or the new one, wholly; where it is neither for a moment, a journal says how large it was."""
    support = os.path.dirname(sys.modules["repairing"].__file__)
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(file), support], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    steps = [json.loads(line) for line in run.stdout.splitlines()]
    ends = {}
    for action, when, call, status, journaled, healed, sound, state in steps:
        assert status in (0, signal.SIGKILL)
        assert bool(healed) == journaled
        assert sound or journaled, "nobody is left with a file that no program reads and nothing mends"
        assert state in ("old", "new")
        ends.setdefault((action, when), []).append((call, state))
    for when in ("before", "half", "after"):
        calls = [call for call, _ in ends["fix", when]]
        assert calls[-1] == ""
        assert calls.count("pwrite") == 3, "the journal, what is appended, and its end"
        assert calls.index("compared") < calls.index("unlink")
        # Until it is proved, an interrupted repair is taken back; the old file comes back whenever the proof fails.
        proved = calls.index("unlink") + (when != "after")
        assert [state for _, state in ends["fix", when]] == ["old"] * proved + ["new"] * (len(calls) - proved)
        assert {state for _, state in ends["fix_badly", when]} == {"old"}
        assert {"ftruncate", "unlink"} <= {call for call, _ in ends["fix_badly", when]}
        assert {state for _, state in ends["heal", when]} == {"old"}
        assert {"ftruncate", "unlink"} <= {call for call, _ in ends["heal", when]}
        undone = [call for call, _ in ends["undo", when]].index("ftruncate") + (when != "after")
        assert [state for _, state in ends["undo", when]][undone:] == ["old"] * (len(ends["undo", when]) - undone)
    assert os.listdir(file.parent) == ["model.ckpt"]


def test_torn_anywhere(file, monkeypatch):
    """A power cut may leave any part of what was appended, with holes: while there is a journal, none of it counts."""
    before = file.read_bytes()
    monkeypatch.setattr(in_place, "_drop_journal", lambda path: None)
    repaired(file, RENAME)
    whole, journal = file.read_bytes(), Path(journal_of(str(file))).read_bytes()
    monkeypatch.undo()
    torn = [whole[:at] for at in (*range(len(before), len(whole), 37), len(whole))]
    torn += [whole[: len(before)] + bytes(len(whole) - len(before)), whole[:-30] + bytes(30), whole + b"\0" * 100]
    for content in torn:
        file.write_bytes(content)
        Path(journal_of(str(file))).write_bytes(journal)
        assert heal(str(file)) == "an interrupted repair was taken back"
        assert file.read_bytes() == before
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

"""The layout of torch before 0.1.10, put together by hand: no torch that runs today writes it."""

from __future__ import annotations

import io
import struct
import tarfile

from reader_files import HOOKS, name, number, text

from relight.core.checkpoint import Layout, ProblemKind
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader.detect import read
from relight.reader.source import MemorySource

STORAGE = b"\x80\x02(" + number(7) + text("cpu") + name("torch", "FloatStorage") + b"t."
MEMBERS = {
    "sys_info": b"\x80\x02}" + text("little_endian") + b"\x88s.",
    "pickle": b"\x80\x02" + HOOKS + b".",
    "storages": b"\x80\x02K\x01." + STORAGE + struct.pack("<q", 2) + struct.pack("<2f", 1, 2),
    "tensors": b"\x80\x02K\x00.",
}


def tar(members: dict[str, bytes]) -> MemorySource:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return MemorySource(out.getvalue())


def test_storages() -> None:
    found = read(tar(MEMBERS))
    assert found.layout is Layout.TORCH_TAR
    assert [(s.id, s.dtype, s.numel, s.nbytes) for s in found.storages.values()] == [("7", "float32", 2, 8)]
    assert set(MEMBERS) == {r.name for r in found.records}
    assert len(found.pickles) >= 4


def test_another_tar_is_named() -> None:
    found = read(tar({"readme": b"words"}))
    assert [p.what for p in found.problems] == ["tar"]


def test_a_cut_list_of_storages() -> None:
    found = read(tar({**MEMBERS, "storages": MEMBERS["storages"][:-1]}))
    assert any(found.problems_of(ProblemKind.TRUNCATED))


def test_code_in_any_member() -> None:
    for member in MEMBERS:
        evil = b"\x80\x02cposix\nsystem\n" + text("true") + b"\x85R."
        assert safety(read(tar({**MEMBERS, member: evil}))) is Safety.DANGEROUS, member

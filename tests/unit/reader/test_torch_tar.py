"""The layout of torch before 0.1.10, put together by hand: no torch that runs today writes it."""

from __future__ import annotations

import struct

import pytest
from reader_files import HOOKS, name, text

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import values
from relight.reader.detect import read
from relight.reader.source import MemorySource
from relight.reader.verify import verify
from relight.rulekit.example import File
from relight.testing.recipes import contents
from relight.testing.tar_writer import TarStorage, TarTensor, tar, tar_members

ROW = TarStorage(7, struct.pack("<6f", 1, 2, 3, 4, 5, 6))
TRANSPOSED = TarTensor(70, 7, (2, 2), (1, 2), 1)
VIEWED = TarTensor(80, 8, (2,), (1,))
WHOLE = TarTensor(90, 7, (6,), (1,))


def ordered(*pairs: tuple[str, bytes]) -> bytes:
    return HOOKS + b"(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def number(value: int) -> bytes:
    """A persistent id."""
    return text(str(value)) + b"Q"


STATE = b"\x80\x02" + ordered(("w", number(70)), ("v", number(80)), ("again", number(70))) + b"."
MEMBERS = tar_members(STATE, [ROW], [TRANSPOSED, VIEWED, WHOLE], [(8, 7, 4, 2)])


def opened(members: dict[str, bytes]) -> Checkpoint:
    return read(MemorySource(tar(members)))


def numbers(members: dict[str, bytes], key: str) -> list[float]:
    source = MemorySource(tar(members))
    found = read(source)
    tensor = next(t for t in found.tensors if t.key == key)
    storage = found.storages[tensor.storage_id or ""]
    raw = b"".join(values.chunks(source, tensor, storage))
    return list(values.decode(raw, tensor.dtype, little=found.little_endian))


def test_tensors() -> None:
    found = opened(MEMBERS)
    assert found.layout is Layout.TORCH_TAR
    assert not found.problems
    assert [(t.key, t.dtype, t.shape, t.stride) for t in found.tensors] == [
        ("w", "float32", (2, 2), (1, 2)),
        ("v", "float32", (2,), (1,)),
        ("again", "float32", (2, 2), (1, 2)),
    ]
    assert {r.name for r in found.records} == set(MEMBERS)
    assert safety(found) is Safety.OK


def test_values() -> None:
    assert numbers(MEMBERS, "w") == [2, 4, 3, 5]
    assert numbers(MEMBERS, "v") == [5, 6]  # through a view on the storage


def test_parameters() -> None:
    """The first releases put Parameters into the state_dict: (tensor, gradient, hooks, requires_grad, volatile)."""
    made = name("torch.nn.parameter", "Parameter") + b")\x81(" + number(90) + b"NN\x88\x89tb"
    later = name("torch.nn.parameter", "Parameter") + b"(" + number(90) + b"t\x81(\x88\x89Ntb"
    found = opened({**MEMBERS, "pickle": b"\x80\x02" + ordered(("a", made), ("b", later)) + b"."})
    assert [(t.key, t.shape, t.parameter) for t in found.tensors] == [("a", (6,), True), ("b", (6,), True)]
    assert not found.problems


def test_a_whole_lightning_file() -> None:
    found = read(MemorySource(contents(File(tar=True))))
    assert [(t.key, t.shape) for t in found.tensors] == [("net.weight", (2, 3)), ("net.bias", (2,))]
    assert not found.problems


def test_verify(tmp_path) -> None:
    path = tmp_path / "old.pth"
    path.write_bytes(tar(MEMBERS))
    assert verify(path, finite=True).ok
    spoiled = tar_members(STATE, [TarStorage(7, ROW.data[:-4] + b"\0\0\xc0\x7f")], [TRANSPOSED, VIEWED], [(8, 7, 4, 2)])
    path.write_bytes(tar(spoiled))
    result = verify(path, finite=True)
    assert [(t.nan, t.first) for t in result.non_finite or ()] == [(1, 5)]


def test_another_tar_is_named() -> None:
    assert [p.what for p in opened({"readme": b"words"}).problems] == ["tar"]


@pytest.mark.parametrize("member", ["storages", "tensors", "pickle"])
def test_cut_anywhere(member: str) -> None:
    """Every cut of a member is a problem, and none is a traceback."""
    data = MEMBERS[member]
    for length in range(len(data)):
        found = opened({**MEMBERS, member: data[:length]})
        assert any(p.fatal for p in found.problems), length


def test_a_cut_file() -> None:
    whole = tar(MEMBERS)
    end = max(record.span.end for record in opened(MEMBERS).records)
    for length in range(1, end, 97):
        found = read(MemorySource(whole[:length]))
        assert any(p.fatal for p in found.problems), length


@pytest.mark.parametrize(
    "tensor",
    [
        TarTensor(70, 7, (7,), (1,)),
        TarTensor(70, 7, (2,), (1,), 5),
        TarTensor(70, 7, (2,), (-1,), 3),
        TarTensor(70, 7, (1,), (1,), -1),
        TarTensor(70, None, (), ()),
        TarTensor(70, 12, (1,), (1,)),
        TarTensor(70, 9, (1,), (1,)),
    ],
    ids=["too large", "too far", "backwards", "before", "no storage", "unknown storage", "view too large"],
)
def test_refused(tensor: TarTensor) -> None:
    pickle = b"\x80\x02" + ordered(("w", number(70)), ("v", number(90))) + b"."
    found = opened(tar_members(pickle, [ROW], [tensor, WHOLE], [(9, 7, 4, 3)]))
    assert set(found.refused) == {"w"}
    assert [t.key for t in found.tensors] == ["v"]
    assert any(found.problems_of(ProblemKind.TENSOR_OUT_OF_BOUNDS))


def test_a_number_that_nothing_describes() -> None:
    found = opened({**MEMBERS, "pickle": b"\x80\x02" + ordered(("w", number(5)), ("v", number(90))) + b"."})
    assert any(found.problems_of(ProblemKind.RECORD_MISSING))


def test_a_storage_by_itself_is_no_problem() -> None:
    found = opened({**MEMBERS, "pickle": b"\x80\x02" + ordered(("w", number(7)), ("v", number(90))) + b"."})
    assert not found.problems


def test_counts_that_cannot_be() -> None:
    for count in (b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"K\xff", b"X\x01\0\0\0a"):
        for member in ("storages", "tensors"):
            data = MEMBERS[member]
            assert data[2:3] == b"K"
            found = opened({**MEMBERS, member: data[:2] + count + data[4:]})
            assert any(p.fatal for p in found.problems)


def test_code_in_any_member() -> None:
    evil = b"\x80\x02cposix\nsystem\n" + text("true") + b"\x85R."
    for member in MEMBERS:
        assert safety(opened({**MEMBERS, member: evil})) is Safety.DANGEROUS, member

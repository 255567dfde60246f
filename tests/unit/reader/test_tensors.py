"""Every way of rebuilding a tensor, and every description that is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from reader_files import HOOKS, checkpoint, name, number, numbers, pid, state_dict, tensor, text

from relight.core.checkpoint import Checkpoint, ProblemKind
from relight.reader import Limits, open_checkpoint
from relight.reader.detect import read
from relight.reader.limits import DEFAULT_LIMITS
from relight.reader.source import MemorySource

CORPUS = Path(__file__).parents[2] / "corpus" / "reader"
FACTS = json.loads((CORPUS / "kinds.json").read_text())


def opened(data: bytes, limits: Limits = DEFAULT_LIMITS, **parts: dict[str, bytes]) -> Checkpoint:
    return read(MemorySource(checkpoint(data, **parts)), limits=limits)


@pytest.mark.parametrize("file", ["kinds.pt", "legacy.pt"])
def test_every_kind_is_what_torch_says_it_is(file: str) -> None:
    found = open_checkpoint(CORPUS / file)
    assert not found.problems
    assert not found.refused
    for t in found.tensors:
        told = FACTS[t.key]
        assert (t.dtype, list(t.shape), list(t.stride), t.offset, t.parameter) == (
            told["dtype"], told["shape"], told["stride"], told["offset"], told["parameter"],
        ), t.key  # fmt: skip
    if file == "kinds.pt":
        assert {t.key for t in found.tensors} == set(FACTS)


def test_what_is_tied_lies_on_one_storage() -> None:
    found = {t.key: t for t in open_checkpoint(CORPUS / "kinds.pt").tensors}
    assert found["parameter"].storage_id == found["tied"].storage_id
    assert found["float32"].storage_id == found["view"].storage_id == found["transposed"].storage_id
    assert found["meta"].storage_id is None
    kinds = {k: found[k].layout for k in ("coo", "csr", "bsr", "quantized", "subclass", "meta", "view")}
    assert kinds == {
        "coo": "sparse", "csr": "sparse", "bsr": "sparse", "quantized": "quantized", "subclass": "subclass",
        "meta": "meta", "view": "strided",
    }  # fmt: skip


def test_an_honest_one() -> None:
    found = opened(state_dict(w=tensor()))
    assert [(t.key, t.shape, t.dtype) for t in found.tensors] == [("w", (4,), "float32")]
    assert not found.problems


REFUSED = {
    "too many arguments": tensor(more=b"NN"),
    "too few arguments": name("torch._utils", "_rebuild_tensor_v2") + b"(" + pid() + b"tR",
    "a class of text": tensor(storage=pid(kind=text("FloatStorage"))),
    "a class that torch does not have": tensor(storage=pid(kind=name("torch", "NiceStorage"))),
    "a function as the class": tensor(storage=pid(kind=name("torch", "load"))),
    "no element count": tensor(storage=pid(numel=b"N")),
    "a negative element count": tensor(storage=pid(numel=number(-4))),
    "a key that climbs": tensor(storage=pid(key=text("../version"))),
    "a storage that is not there": tensor(storage=pid(key=text("7"))),
    "a negative offset": tensor(offset=number(-1)),
    "an offset of text": tensor(offset=text("0")),
    "a float in the shape": tensor(size=b"G" + struct.pack(">d", 4.0) + b"\x85"),
    "a negative size": tensor(size=numbers(-4)),
    "a negative stride": tensor(stride=numbers(-1)),
    "sizes without strides": tensor(size=numbers(2, 2)),
    "beyond the end": tensor(size=numbers(5)),
    "a stride beyond the end": tensor(size=numbers(2, 2), stride=numbers(1000, 1)),
    "a stride that overflows": tensor(size=numbers(4, 2), stride=numbers(2**61, 1)),
    "a size that overflows": tensor(size=numbers(2**62, 4), stride=numbers(0, 1)),
    "an offset beyond the end": tensor(offset=number(2**63)),
    "too many dimensions": tensor(size=numbers(*[1] * 65), stride=numbers(*[1] * 65)),
    "changed by BUILD": tensor(after=b"}b"),
    "changed by SETITEM": tensor(after=number(0) + number(1) + b"s"),
    "no storage": tensor(storage=b"N"),
    "a tensor in place of a storage": tensor(storage=tensor()),
    "a parameter around nothing": name("torch._utils", "_rebuild_parameter") + b"N\x89" + HOOKS + b"\x87R",
    "a subclass rebuilt by anything": name("torch._tensor", "_rebuild_from_type_v2")
    + b"(" + name("builtins", "eval") + name("torch", "Tensor") + text("1") + b"\x85}tR",
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(what: str) -> None:
    found = opened(state_dict(good=tensor(), bad=REFUSED[what]))
    assert [t.key for t in found.tensors] == ["good"]
    assert set(found.refused) == {"bad"}
    assert found.problems


def test_a_claim_that_the_record_contradicts() -> None:
    """The record decides which of two claims on a storage is right."""
    small = tensor(storage=pid(numel=number(2)), size=numbers(2))
    for values in ({"a": small, "b": tensor()}, {"b": tensor(), "a": small}):
        found = opened(state_dict(**values))
        assert [t.key for t in found.tensors] == ["b"]
        assert set(found.refused) == {"a"}


def test_a_short_record() -> None:
    found = opened(state_dict(w=tensor()), storages={"0": b"\0" * 15})
    assert [t.key for t in found.lost] == ["w"]
    assert "15 of 16 bytes" in found.refused["w"]


def sparse(index: int) -> tuple[bytes, dict[str, bytes]]:
    indices = tensor(storage=pid(key=text("i"), numel=number(1), kind=name("torch", "LongStorage")),
                     size=numbers(1, 1), stride=numbers(1, 1))  # fmt: skip
    values = tensor(size=numbers(1))
    layout = name("torch.serialization", "_get_layout") + text("torch.sparse_coo") + b"\x85R"
    body = name("torch._utils", "_rebuild_sparse_tensor") + layout + b"(" + indices + values + numbers(4) + b"t\x86R"
    return body, {"0": b"\0" * 16, "i": struct.pack("<q", index)}


@pytest.mark.parametrize("index", [0, 3])
def test_sparse_indices_within(index: int) -> None:
    body, storages = sparse(index)
    found = opened(state_dict(w=body), storages=storages)
    assert [(t.key, t.layout, t.shape) for t in found.tensors] == [("w", "sparse", (4,))]


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_sparse_indices_beyond(index: int) -> None:
    """torch does not look by default: the first use would touch foreign memory."""
    body, storages = sparse(index)
    found = opened(state_dict(w=body), storages=storages)
    assert not found.tensors
    assert "outside dimension 0" in found.refused["w"]


def test_a_small_storage_spread_over_terabytes() -> None:
    found = opened(state_dict(w=tensor(size=numbers(2**40), stride=numbers(0))))
    assert set(found.refused) == {"w"}
    assert any(p.what == "expanded_bytes" for p in found.problems_of(ProblemKind.LIMIT))


def test_compressed_storages_have_no_place_to_read_from(tmp_path: Path) -> None:
    found = open_checkpoint(CORPUS / "broken" / "deflated_zip.ckpt")
    assert found.tensors
    packed = {r.name.removeprefix("data/") for r in found.records if r.compressed}
    assert packed
    assert all(found.storages[k].span is None for k in packed & set(found.storages))

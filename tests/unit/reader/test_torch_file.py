from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.objects import ObjectPath
from relight.reader import open_checkpoint
from relight.reader.detect import read
from relight.reader.source import MemorySource
from relight.rulekit import File, Obj, Tensor
from relight.testing.recipes import contents

CORPUS = Path(__file__).parents[2] / "corpus" / "reader"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CORPUS / "expected.json").read_text())


def of_recipe(**recipe: Any) -> Checkpoint:
    return read(MemorySource(contents(File(**recipe))))


def described(checkpoint: Checkpoint) -> list[TensorEntry]:
    """Tensors, with or without their values."""
    return [*checkpoint.tensors, *checkpoint.lost]


def values(data: bytes, checkpoint: Checkpoint, t: TensorEntry) -> bytes:
    """The tensor's bytes in its own order, from nothing but what the entry says."""
    storage = checkpoint.storages[t.storage_id or ""]
    assert storage.span is not None
    item = BY_NAME[t.dtype].itemsize
    places = [t.offset]
    for size, stride in zip(t.shape, t.stride, strict=True):
        places = [place + i * stride for place in places for i in range(size)]
    start = storage.span.start
    return b"".join(data[start + i * item : start + (i + 1) * item] for i in places) if t.numel else b""


@pytest.mark.parametrize("name", EXPECTED)
class TestRealFiles:
    def test_keys_types_and_shapes(self, name: str) -> None:
        checkpoint = open_checkpoint(CORPUS / "checkpoints" / name)
        assert not checkpoint.problems
        assert {t.key: (t.dtype, list(t.shape)) for t in checkpoint.tensors} == {
            k: (t["dtype"], t["shape"]) for k, t in EXPECTED[name]["state_dict"].items()
        }

    def test_names_as_they_are_stored(self, name: str) -> None:
        checkpoint = open_checkpoint(CORPUS / "checkpoints" / name)
        assert {g.stored for g in checkpoint.globals} == set(EXPECTED[name]["pickle_globals"])

    def test_values_lie_where_the_entries_say(self, name: str) -> None:
        path = CORPUS / "checkpoints" / name
        data, checkpoint = path.read_bytes(), open_checkpoint(path)
        plain = [t for t in checkpoint.tensors if t.layout in ("strided", "subclass") and t.storage_id is not None]
        assert plain or name.startswith("E26L-xla_numpy")
        for t in plain:
            digest = hashlib.sha256(values(data, checkpoint, t)).hexdigest()[:16]
            assert digest == EXPECTED[name]["state_dict"][t.key]["sha256"], t.key

    def test_devices(self, name: str) -> None:
        devices = {s.device for s in open_checkpoint(CORPUS / "checkpoints" / name).storages.values()}
        assert devices <= set(EXPECTED[name]["storage_locations"])


class TestLayouts:
    def test_zip_and_legacy_say_the_same(self) -> None:
        tensors = {"a": (2, 3), "b": Tensor((4,), "float16"), "n": Tensor((), "int64")}
        new, old = of_recipe(tensors=tensors), of_recipe(tensors=tensors, legacy=True)
        assert (new.layout, old.layout) == (Layout.TORCH_ZIP, Layout.TORCH_LEGACY)
        assert [(t.key, t.dtype, t.shape, t.stride) for t in new.tensors] == [
            (t.key, t.dtype, t.shape, t.stride) for t in old.tensors
        ]

    @pytest.mark.parametrize("keep", [0.2, 0.5, 0.8, 0.97])
    def test_a_legacy_file_that_breaks_off(self, keep: float) -> None:
        checkpoint = of_recipe(legacy=True, keep=keep)
        assert any(p.fatal and p.kind is ProblemKind.TRUNCATED for p in checkpoint.problems)

    def test_a_cut_zip_still_tells_its_tensors(self) -> None:
        for name in ("truncated_50.ckpt", "truncated_last1.ckpt", "flipped_eocd.ckpt"):
            checkpoint = open_checkpoint(CORPUS / "broken" / name)
            assert any(checkpoint.problems_of(ProblemKind.NO_CENTRAL_DIRECTORY))
            assert len(described(checkpoint)) == 4

    def test_a_cut_inside_the_pickle_tells_only_that(self) -> None:
        checkpoint = open_checkpoint(CORPUS / "broken" / "truncated_25.ckpt")
        assert any(p.fatal for p in checkpoint.problems_of(ProblemKind.NO_CENTRAL_DIRECTORY))
        assert not checkpoint.readable

    def test_types_without_a_storage_class_of_their_own(self) -> None:
        (t,) = of_recipe(tensors={"w": Tensor((4,), "float8_e4m3fn")}).tensors
        assert (t.dtype, t.shape) == ("float8_e4m3fn", (4,))


class TestStateDict:
    def test_lightning(self) -> None:
        assert str(of_recipe().state_dict_path) == "state_dict"

    def test_a_plain_one(self) -> None:
        assert str(of_recipe(raw=True).state_dict_path) == "$"

    @pytest.mark.parametrize("under", ["model_state_dict", "model", "net", "weights", "something_else"])
    def test_under_another_key(self, under: str) -> None:
        checkpoint = of_recipe(under=under)
        assert str(checkpoint.state_dict_path) == under
        assert [t.key for t in checkpoint.tensors] == ["net.weight", "net.bias"]

    def test_what_is_no_tensor_is_listed(self) -> None:
        checkpoint = of_recipe(tensors={"w": (2,), "net._extra_state": {"scale": 1}})
        assert checkpoint.extra_keys == ("net._extra_state",)

    def test_versions_of_modules(self) -> None:
        checkpoint = of_recipe(metadata={"": 1, "bn": 2})
        assert checkpoint.metadata == {"": 1, "bn": 2}
        assert of_recipe().metadata is None

    def test_a_shared_storage(self) -> None:
        checkpoint = of_recipe(tensors={"a": Tensor((4,), storage="s"), "b": Tensor((4,), storage="s")})
        assert len({t.storage_id for t in checkpoint.tensors}) == 1

    def test_objects_around_it_are_described_not_built(self) -> None:
        checkpoint = of_recipe(hparams={"config": Obj("my_project.Config", {"hidden": 3})})
        assert "my_project.Config" in {g.full_name for g in checkpoint.globals}

    def test_a_whole_pickled_module(self) -> None:
        checkpoint = open_checkpoint(CORPUS / "broken" / "full_nn_pickle.pt")
        assert [t.key for t in checkpoint.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert all(t.parameter for t in checkpoint.tensors)


def a_tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00", numel: bytes = b"K\x06") -> Checkpoint:
    """A file whose one tensor lies on a storage of 24 bytes, with numbers as the pickle spells them."""
    pid = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numel + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + offset + size + stride + b"\x89NtR"
    return read(MemorySource(pickle_file(b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s.", bytes(24))))


class TestBounds:
    """A tensor that its storage cannot hold must never be given out."""

    @pytest.mark.parametrize(
        "size, stride, offset",
        [
            (b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"K\x00"),
            (b"K\x03K\x02\x86", b"K\x01K\x03\x86", b"K\x00"),  # transposed
            (b"K\x02\x85", b"K\x01\x85", b"K\x04"),  # the last two elements
            (b"K\x00\x85", b"K\x01\x85", b"K\x06"),  # nothing, at the very end
            (b")", b")", b"K\x05"),  # a scalar
        ],
    )
    def test_within(self, size: bytes, stride: bytes, offset: bytes) -> None:
        checkpoint = a_tensor(size, stride, offset)
        assert not checkpoint.problems
        assert [t.key for t in checkpoint.tensors] == ["w"]

    @pytest.mark.parametrize(
        "size, stride, offset",
        [
            (b"K\x09K\x03\x86", b"K\x03K\x01\x86", b"K\x00"),  # more rows than there are
            (b"K\x02K\x03\x86", b"K\x63K\x01\x86", b"K\x00"),  # strides that leave it
            (b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"K\x01"),  # one too far
            (b")", b")", b"K\x06"),  # a scalar behind the end
            (b"K\x02\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"),  # before the start
            (b"J\xff\xff\xff\x7f" * 3 + b"\x87", b"K\x01K\x01K\x01\x87", b"K\x00"),  # 2**93 elements
        ],
    )
    def test_beyond(self, size: bytes, stride: bytes, offset: bytes) -> None:
        checkpoint = a_tensor(size, stride, offset)
        assert any(p.fatal for p in checkpoint.problems_of(ProblemKind.TENSOR_OUT_OF_BOUNDS))
        assert not checkpoint.tensors

    def test_a_storage_that_claims_more_than_its_record_has(self) -> None:
        checkpoint = a_tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86", numel=b"K\x07")
        assert any(p.fatal for p in checkpoint.problems_of(ProblemKind.RECORD_SHORT))
        assert not checkpoint.tensors


def pickle_file(pickle: bytes, storage: bytes) -> bytes:
    """The zip layout around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", storage)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def test_big_endian_legacy_counts() -> None:
    """The element counts of the storages are in the byte order of the machine that wrote the file."""
    data = contents(File(tensors={"w": (3,)}, legacy=True))
    little = struct.pack("<q", 3)
    assert data.count(little) == 1
    at = data.index(little)
    assert any(p.fatal for p in read(MemorySource(data[:at] + struct.pack(">q", 3) + data[at + 8 :])).problems)


def test_nothing_in_a_file_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        raise AssertionError(f"import of {name}")

    data = contents(File(hparams={"x": Obj("antigravity.Anything")}))
    read(MemorySource(data))  # whatever the reader imports late is there now
    monkeypatch.setattr(builtins, "__import__", refuse)
    checkpoint = read(MemorySource(data))
    monkeypatch.undo()
    assert "antigravity.Anything" in {g.full_name for g in checkpoint.globals}


class TestLocalHeaders:
    @staticmethod
    def without(name: str) -> Checkpoint:
        """A file with an extra record, in which the local header of one record is destroyed."""
        out = io.BytesIO(contents(File(tensors={"a": (4,)})))
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr("archive/extra.txt", "hello")
        data = bytearray(out.getvalue())
        at = data.index(f"archive/{name}".encode()) - 30
        data[at : at + 4] = b"XXXX"
        return read(MemorySource(bytes(data)))

    def test_of_a_record_that_nothing_reads(self) -> None:
        found = self.without("extra.txt")
        assert [p.record for p in found.problems_of(ProblemKind.ARCHIVE_MALFORMED)] == ["extra.txt"]
        assert not any(p.fatal for p in found.problems)
        assert len(found.tensors) == 1

    @pytest.mark.parametrize("name", ["data.pkl", "data/0", "version", "byteorder"])
    def test_of_a_record_that_torch_reads(self, name: str) -> None:
        assert any(p.fatal and p.record == name for p in self.without(name).problems)


class TestOneProblemIsSaidOnce:
    def test_a_legacy_file_that_breaks_off_anywhere(self) -> None:
        data = contents(File(legacy=True, tensors={"a": (4, 4), "b": (8,)}))
        for cut in range(1, len(data)):
            assert len(read(MemorySource(data[:cut])).problems) == 1, cut

    def test_a_legacy_file_with_a_storage_of_no_known_class(self) -> None:
        data = contents(File(legacy=True, tensors={"a": (4,)})).replace(b"FloatStorage", b"FloatStoragf")
        (problem,) = read(MemorySource(data)).problems
        assert "FloatStoragf" in problem.message


def test_a_state_dict_two_steps_below_the_root(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {"module.fc.weight": torch.zeros(2, 3)}
    moments = {"0": {"exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)}}
    torch.save({"net": {"state_dict": weights}, "optimizers": {"adam": moments}, "args": {"a": 1}}, tmp_path / "f.pt")
    read = open_checkpoint(tmp_path / "f.pt")
    assert read.state_dict_path == ObjectPath(("net", "state_dict"))
    assert [t.key for t in read.tensors] == ["module.fc.weight"]


def test_no_state_dict_at_any_depth(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(
        {"a": {"b": {"c": [torch.zeros(2)], "d": 1, "e": 2, "t": torch.zeros(1)}}, "args": {}}, tmp_path / "f.pt"
    )
    assert open_checkpoint(tmp_path / "f.pt").state_dict_path is None

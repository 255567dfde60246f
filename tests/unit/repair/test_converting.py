"""Other layouts: what comes out holds what was there, bit by bit, and what is not whole is refused."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import pytest
from repairing import rows

from relight.core.checkpoint import Layout
from relight.core.errors import ConversionError, RepairError
from relight.core.objects import Persistent, mapping_get, nodes
from relight.reader import open_checkpoint
from relight.reader.tensors import storage_claim
from relight.repair.converting import convert
from relight.repair.graphs import same_graph
from relight.repair.material import elements
from relight.repair.sharded_material import Box, put_together
from relight.repair.stored import FileRange, Files, Literal
from relight.rulekit import File, Obj, Ref, Tensor
from relight.testing import write

CORPUS = Path(__file__).parents[2] / "corpus"
REAL = sorted(
    p
    for p in (*CORPUS.glob("checkpoints/*/*.ckpt"), *CORPUS.glob("reader/checkpoints/*.ckpt"))
    if p.parent.name not in ("E13", "E15", "E18", "E20", "E25")  # as those before and after them
)
REAL += [CORPUS / "reader" / n for n in ("kinds.pt", "legacy.pt", "state_dict.pt")]


def renumbered(path: Path):
    """The tree of a file with its storages numbered in the order in which loading meets them, and their bytes."""
    found = open_checkpoint(path)
    order = {}
    for node in sorted((n for n in nodes(found.root) if isinstance(n, Persistent)), key=lambda n: n.position):
        order.setdefault(storage_claim(node.pid).key, str(len(order)))
    for node in nodes(found.root):
        if isinstance(node, Persistent):
            claim = storage_claim(node.pid)
            node.pid = (*node.pid[:2], order[claim.key], *node.pid[3:5])
    data = path.read_bytes()
    return found, {
        order[k]: data[s.span.start : s.span.end]
        for k, s in found.storages.items()
        if k in order and s.span is not None
    }


@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_there_and_back(path, tmp_path):
    """A real file to safetensors and back: the same objects, shared where they were, and the same bytes."""
    weights, back = tmp_path / "w.safetensors", tmp_path / "back.ckpt"
    there = convert(str(path), str(weights))
    assert there.proved
    assert there.outputs[0].what == "weights"
    assert convert(str(weights), str(back)).proved
    before, bytes_before = renumbered(path)
    after, bytes_after = renumbered(back)
    assert after.problems == ()
    assert after.stream.protocol == 2
    assert same_graph(after.root, before.root)
    assert bytes_after == bytes_before
    # Under their own names, the weights alone: what any program finds.
    listed = open_checkpoint(weights)
    assert {t.key for t in listed.tensors} | {k for k, _ in there.left_out} == {t.key for t in before.tensors}
    with_values = {t.key: t for t in before.tensors}
    files, data = Files(), weights.read_bytes()
    for t in listed.tensors:
        old = with_values[t.key]
        storage = before.storages[old.storage_id]
        if storage.span is None:
            continue
        content = FileRange(files, str(path), storage.span.start, storage.nbytes)
        span = listed.storages[t.key].span
        assert (t.dtype, t.shape) == (old.dtype, old.shape)
        assert b"".join(elements(old, content).chunks()) == data[span.start : span.end], t.key
    files.close()


def test_only_the_rest_is_gone_without_it(tmp_path):
    path = CORPUS / "checkpoints" / "E26" / "full.ckpt"
    done = convert(str(path), str(tmp_path / "w.safetensors"), rest=False)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert any("optimizer_states" in what for what, _ in done.left_out)
    back = convert(str(tmp_path / "w.safetensors"), str(tmp_path / "w.pt"))
    assert back.proved
    assert [row[5] for row in rows(tmp_path / "w.pt").values()] == [row[5] for row in rows(path).values()]
    alone = convert(str(path), str(tmp_path / "alone.pt"), only="weights")
    assert next(what for what, _ in alone.left_out).startswith("epoch, global_step")
    assert rows(tmp_path / "alone.pt").keys() == rows(path).keys()
    # _metadata, by which torch converts old tensors, stays.
    assert open_checkpoint(tmp_path / "alone.pt").metadata == open_checkpoint(path).metadata


@pytest.mark.parametrize("kind", ["legacy", "tar", "protocol 4", "protocol 5", "deflated"])
def test_what_torch_reads_today(kind, tmp_path):
    tensors = {"net.weight": (7, 3), "net.bias": (3,)}
    path = tmp_path / "old.ckpt"
    if kind == "deflated":
        path = CORPUS / "reader" / "broken" / "deflated_zip.ckpt"
    else:
        recipe = {"protocol": int(kind[-1])} if kind[-1].isdecimal() else {kind: True}
        write(File(tensors=tensors, hparams={"lr": 0.1}, **recipe), path)
    done = convert(str(path), str(tmp_path / "new.ckpt"))
    assert done.proved
    new, old = open_checkpoint(tmp_path / "new.ckpt"), open_checkpoint(path)
    assert (new.layout, new.problems, new.stream.protocol) == (Layout.TORCH_ZIP, (), 2)
    assert [(t.key, t.dtype, t.shape) for t in new.tensors] == [(t.key, t.dtype, t.shape) for t in old.tensors]
    assert all(r.span.start % 64 == 0 and not r.compressed for r in new.records)
    assert ".format_version" not in {r.name for r in new.records}


def test_a_view_of_a_storage(tmp_path):
    """torch before 0.4 wrote ids that name a part of another storage: the tensor lies on the part."""
    body = (
        b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x06(X\x02\x00\x00\x0077K\x02K\x04ttQK\x01K\x02\x85K\x01\x85tRu."
    )
    head = [
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}X\r\x00\x00\x00little_endian\x88s.",
    ]
    values = struct.pack("<6f", *range(6))
    path = tmp_path / "views.pt"
    path.write_bytes(b"".join(head) + body + b"\x80\x02]X\x01\x00\x00\x007a." + struct.pack("<q", 6) + values)
    convert(str(path), str(tmp_path / "w.safetensors"))
    assert next(iter(rows(tmp_path / "w.safetensors").values()))[5] == struct.pack("<2f", 3, 4)


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("name", ["hf_index", "hf_pieces", "hf_consolidated"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_shards_to_one_file(name, suffix, tmp_path):
    folder = CORPUS / "reader" / "distributed" / name
    whole = CORPUS / "reader" / "distributed" / "hf_index"
    done = convert(str(folder), str(tmp_path / f"one.{suffix}"))
    assert done.proved
    values = {}
    for shard in whole.glob("*.safetensors"):
        values |= {k: row[5] for k, row in rows(shard).items()}
    found = {k: row[5] for k, row in rows(tmp_path / f"one.{suffix}").items()}
    if name == "hf_consolidated":  # written with emb as floats
        values["emb"] = struct.pack("<12f", *range(12))
    assert found == values
    assert (tmp_path / f"one.{suffix}").stat().st_mode & 0o111 == 0, "a folder's permissions are no file's"


def test_a_missing_shard_is_named(tmp_path):
    folder = shutil.copytree(CORPUS / "reader" / "distributed" / "hf_index", tmp_path / "folder")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"model-00002-of-00002.safetensors: the index needs this file for 2"):
        convert(str(folder), str(tmp_path / "one.pt"))
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def cut(
    shape: tuple[int, ...], offsets: tuple[int, ...], draw: random.Random
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A box as smaller boxes."""
    dims = [d for d, n in enumerate(shape) if n > 1]
    if not dims or draw.random() < 0.3:
        return [(offsets, shape)]
    d = draw.choice(dims)
    at = draw.randrange(1, shape[d])
    left = (*shape[:d], at, *shape[d + 1 :])
    right = (*shape[:d], shape[d] - at, *shape[d + 1 :])
    moved = (*offsets[:d], offsets[d] + at, *offsets[d + 1 :])
    return [*cut(left, offsets, draw), *cut(right, moved, draw)]


def values_of(shape: tuple[int, ...], offsets: tuple[int, ...], whole: tuple[int, ...]) -> bytes:
    """What a box holds of a tensor whose elements are numbered."""
    out = [0]
    for d, n in enumerate(shape):
        out = [at * whole[d] + offsets[d] + i for at in out for i in range(n)]
    return struct.pack(f"<{len(out)}H", *out)


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_any_cut(seed):
    draw = random.Random(seed)
    shape = tuple(draw.randrange(1, 7) for _ in range(draw.randrange(0, 5)))
    boxes = [Box(o, s, Literal(values_of(s, o, shape))) for o, s in cut(shape, (0,) * len(shape), draw)]
    draw.shuffle(boxes)
    whole = put_together("x", "t", shape, 2, [*boxes, boxes[0]])
    assert b"".join(whole.chunks()) == values_of(shape, (0,) * len(shape), shape)
    if len(boxes) > 1:
        with pytest.raises(RepairError, match=r"in no file|in no part"):
            put_together("x", "t", shape, 2, boxes[1:])


def test_pieces_that_overlap():
    shape = (4, 4)
    boxes = [Box(o, s, Literal(values_of(s, o, shape))) for o, s in (((0, 0), (4, 3)), ((0, 2), (4, 2)))]
    with pytest.raises(RepairError, match="overlap"):
        put_together("x", "t", shape, 2, boxes)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["truncated_50.ckpt", "flipped_data_pkl.ckpt", "short_record.ckpt", "html_page.ckpt"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_nothing_is_made_of_a_damaged_file(name, suffix, tmp_path):
    with pytest.raises(ConversionError):
        convert(str(CORPUS / "reader" / "broken" / name), str(tmp_path / f"x.{suffix}"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_flipped_byte_is_not_carried_over(suffix, tmp_path, monkeypatch):
    """The checksum of a record tells, where safetensors have none: also in files too large to be verified unasked."""
    path = tmp_path / "x.ckpt"
    shutil.copy(CORPUS / "checkpoints" / "E26" / "plain.ckpt", path)
    data = bytearray(path.read_bytes())
    span = next(iter(open_checkpoint(path).storages.values())).span
    data[span.start] ^= 1
    path.write_bytes(bytes(data))
    monkeypatch.setattr("relight.reader.archive.Archive.check_small", lambda self: None)
    with pytest.raises(ConversionError, match="not what its source says"):
        convert(str(path), str(tmp_path / f"y.{suffix}"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


def test_what_would_run_code_is_not_written_again(tmp_path):
    path = write(File(tensors={"w": (2,)}, hparams={"x": Obj("os.system", args=("true",))}), tmp_path / "x.ckpt")
    with pytest.raises(ConversionError, match="run code"):
        convert(str(path), str(tmp_path / "copy.ckpt"))
    convert(str(path), str(tmp_path / "w.safetensors"))
    with pytest.raises(ConversionError, match="run code"):
        convert(str(tmp_path / "w.safetensors"), str(tmp_path / "copy.ckpt"))
    assert not (tmp_path / "copy.ckpt").exists()
    assert convert(str(path), str(tmp_path / "w.pt"), only="weights").proved


@pytest.mark.parametrize("taken", ["w.safetensors", "w.rest.json", "w.rest.safetensors"])
def test_nothing_is_written_over(taken, tmp_path):
    (tmp_path / taken).write_bytes(b"mine")
    with pytest.raises(ConversionError, match=f"{taken} is there already"):
        convert(str(CORPUS / "checkpoints" / "E26" / "full.ckpt"), str(tmp_path / "w.safetensors"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {taken: b"mine"}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "relight/sidecar/2"},
        {"root": {"$what": 1}},
        {"root": {"$call": {"$name": ["a", 1]}, "args": []}},
        {"root": {"$same": 3}},
        {"storages": [["0", "weights", "no.such"]]},
        {"storages": []},
        {"storages": 3},
    ],
    ids=str,
)
def test_a_sidecar_that_makes_no_sense(change, tmp_path):
    weights = tmp_path / "w.safetensors"
    convert(str(CORPUS / "checkpoints" / "E26" / "plain.ckpt"), str(weights))
    rest = tmp_path / "w.rest.json"
    rest.write_text(json.dumps({**json.loads(rest.read_text()), **change}))
    with pytest.raises(ConversionError):
        convert(str(weights), str(tmp_path / "back.ckpt"))
    assert not (tmp_path / "back.ckpt").exists()


def test_names_of_storages_that_people_find(tmp_path):
    convert(str(CORPUS / "checkpoints" / "E26" / "full.ckpt"), str(tmp_path / "w.safetensors"))
    names = {t.key for t in open_checkpoint(tmp_path / "w.rest.safetensors").tensors}
    assert "optimizer_states.0.state.0.exp_avg" in names


def test_a_key_that_is_a_number(tmp_path):
    """Keys that JSON cannot have come back as what they were."""
    root = {1: 2, "$a": 3.5, None: (1, [2]), "nan": float("nan"), "big": 10**30, "d": {2: Ref("torch.float32")}}
    path = write(File(tensors={"w": (2,)}, hparams=root), tmp_path / "x.ckpt")
    convert(str(path), str(tmp_path / "w.safetensors"))
    convert(str(tmp_path / "w.safetensors"), str(tmp_path / "y.ckpt"))
    found = mapping_get(open_checkpoint(tmp_path / "y.ckpt").root, "hyper_parameters")
    assert same_graph(found, mapping_get(open_checkpoint(path).root, "hyper_parameters"))


def test_a_tensor_of_a_type_that_safetensors_lacks(tmp_path):
    path = write(File(tensors={"w": (2,), "q": Tensor((2,), "complex128")}), tmp_path / "x.ckpt")
    done = convert(str(path), str(tmp_path / "w.safetensors"))
    assert done.left_out == (("q", "safetensors has no type complex128"),)
    convert(str(tmp_path / "w.safetensors"), str(tmp_path / "y.ckpt"))
    assert rows(tmp_path / "y.ckpt") == rows(path)

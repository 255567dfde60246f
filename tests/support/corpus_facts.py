"""What a file really holds, by the JSON beside it, compared with what relight reads from it.

The JSON was written by the library that wrote the file: keys, dtypes, shapes, names in the pickle, devices, counters,
and of every tensor a sha256 over its values. Values are taken from the places that relight names, and from no others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from relight.core.checkpoint import Checkpoint, Layout, TensorEntry
from relight.core.objects import Call, Global, ListNode, ObjectPath, Value, mapping_get, mapping_pairs
from relight.facts.lightning import LightningView
from relight.facts.producer import PACKAGES, Produced, producer
from relight.reader import open_checkpoint, values
from relight.reader.dcp import SliceSource
from relight.reader.detect import read
from relight.reader.source import ByteSource, LocalSource
from relight.reader.tensors import TensorReader, sizes_of

_CONTAINERS = {"zip": Layout.TORCH_ZIP, "legacy": Layout.TORCH_LEGACY, "tar": Layout.TORCH_TAR}
_FOLDERS = {"torch.distributed.checkpoint": Layout.DCP, "deepspeed": Layout.DEEPSPEED}
_RUNS = "/home/user/runs/"  # stands in the files for a folder of the machine that wrote them


class Disagreement(NamedTuple):
    """One thing that relight reads otherwise.

    Attributes:
        kind: What is read otherwise: ``shape``, ``values`` ...
        where: Key, name or field.
        told: As relight has it.
        truth: As the JSON has it.
    """

    kind: str
    where: str
    told: object
    truth: object


def compare(path: str | os.PathLike[str], truth: Mapping[str, Any], *, ordered: bool = True) -> Iterator[Disagreement]:
    """Everything that relight reads otherwise than the JSON says.

    Args:
        path: A file or a folder.
        truth: The JSON.
        ordered: Whether the JSON has the keys of the state_dict in their order.
    """
    checkpoint = open_checkpoint(path)
    if truth["container"] == "directory":
        yield from _folder(checkpoint, Path(path), truth)
        return
    yield from _container(checkpoint, truth)
    yield from _names(checkpoint, truth)
    stated = truth["state_dict"]
    if not stated and checkpoint.state_dict_path:  # the JSON looks under "state_dict" only: its tree knows the others
        stated = _stated_in_tree(checkpoint, truth["top_level"])
    yield from _described(checkpoint.tensors, stated, ordered=ordered)
    yield from _values(checkpoint, truth)
    if "top_level" in truth:
        yield from _top_level(checkpoint, truth["top_level"])
    if "producer" in truth:
        yield from _producer(checkpoint, truth["producer"])


def _differs(kind: str, where: str, told: object, truth: object) -> Iterator[Disagreement]:
    if told != truth:
        yield Disagreement(kind, where, told, truth)


# ---------------------------------------------------------------- the file as such


def _container(checkpoint: Checkpoint, truth: Mapping[str, Any]) -> Iterator[Disagreement]:
    yield from _differs("layout", "container", checkpoint.layout, _CONTAINERS[truth["container"]])
    if "bytes" in truth:
        yield from _differs("size", "bytes", checkpoint.nbytes, truth["bytes"])
    if "zip_records" in truth:
        yield from _differs("records", "count", len(checkpoint.records), truth["zip_records"])
        extra = [r.name for r in checkpoint.records if not re.fullmatch(r"data(/\d+|\.pkl)", r.name)]
        yield from _differs("records", "names", sorted(extra), sorted(truth["zip_extra"]))
    if "pickle_protocols" in truth and checkpoint.stream is not None:
        protocol = checkpoint.stream.protocol
        yield from _differs("protocol", "pickle", protocol in truth["pickle_protocols"], True)
    for problem in checkpoint.problems:
        yield Disagreement("problem", problem.record or "file", problem.message, "a file without damage")


def _names(checkpoint: Checkpoint, truth: Mapping[str, Any]) -> Iterator[Disagreement]:
    written = {g.stored for g in checkpoint.globals}
    stated = set(truth["pickle_globals"])
    if "?stack_global" in stated:  # names that the JSON could not tell
        stated = (stated - {"?stack_global"}) | written
    yield from _differs("globals", "pickle", sorted(written), sorted(stated))
    if "storage_locations" not in truth:
        return
    devices = {s.device for s in checkpoint.storages.values()}
    yield from _differs("devices", "storages", sorted(devices - set(truth["storage_locations"])), [])


# ---------------------------------------------------------------- tensors


def _described(
    tensors: tuple[TensorEntry, ...], stated: Mapping[str, Mapping[str, Any]], *, ordered: bool
) -> Iterator[Disagreement]:
    told, there = [t.key for t in tensors], list(stated)
    yield from _differs("keys", "state_dict", told if ordered else sorted(told), there if ordered else sorted(there))
    for t in tensors:
        truth = stated.get(t.key)
        if truth is not None:
            yield from _differs("dtype", t.key, t.dtype, truth["dtype"])
            yield from _differs("shape", t.key, list(t.shape), truth["shape"])
            layout = "sparse" if "layout" in truth else "quantized" if "quantized" in truth else None
            odd = t.layout if t.layout in ("sparse", "quantized") else None
            yield from _differs("kind of tensor", t.key, odd, layout)


def _stated_in_tree(checkpoint: Checkpoint, tree: Any) -> dict[str, dict[str, Any]]:
    """Tensors of the state_dict as the JSON's tree of types has them: ``Tensor[float32,16x8]``."""
    assert checkpoint.state_dict_path is not None
    for step in checkpoint.state_dict_path:
        tree = tree[step]
    out: dict[str, dict[str, Any]] = {}
    for key, text in tree.items():
        match = re.fullmatch(r"Tensor\[(\w+),([\dx]*)\]", str(text))
        if match is not None:
            out[key] = {"dtype": match[1], "shape": [int(n) for n in match[2].split("x") if n]}
    return out


def _values(checkpoint: Checkpoint, truth: Mapping[str, Any]) -> Iterator[Disagreement]:
    source = LocalSource(checkpoint.origin)
    try:
        reader = _Values(checkpoint, source)
        found = {t.key: (t, _found(checkpoint.root, t)) for t in checkpoint.tensors}
        for key, (t, value) in found.items():
            if key in truth["state_dict"]:
                digest = hashlib.sha256(reader.of(t, value)).hexdigest()[:16]
                yield from _differs("values", key, digest, truth["state_dict"][key]["sha256"])
        if "state_dict_sha256" in truth and truth["state_dict"]:
            yield from _differs("values", "state_dict", reader.digest(found), truth["state_dict_sha256"])
        if "all_tensors_sha256" in truth:  # those of optimizers and callbacks, too
            everything = dict(_all_tensors(checkpoint))
            yield from _differs("values", "number of tensors", len(everything), truth["all_tensors"])
            if not any(_RUNS in path for path in everything):  # the hash has the path, and the path was replaced
                yield from _differs("values", "all tensors", reader.digest(everything), truth["all_tensors_sha256"])
    finally:
        source.close()


def _all_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[TensorEntry, Value]]]:
    """Every tensor below dicts, lists and tuples, by a path with slashes."""
    reader = TensorReader(checkpoint.storages)
    stack: list[tuple[str, Value]] = [("", checkpoint.root)]
    while stack:
        path, value = stack.pop()
        entry = reader.read(value, path, ObjectPath())
        if isinstance(entry, TensorEntry):
            yield path, (entry, _unwrapped(value))
            continue
        pairs = mapping_pairs(value)
        if pairs is None and isinstance(value, Call):  # a dict of a class of its own
            pairs = value.pairs
        if pairs is not None:
            last = {k.name if isinstance(k, Global) else k if isinstance(k, str) else repr(k): v for k, v in pairs}
            stack += [(f"{path}/{k}", v) for k, v in last.items()]
        elif isinstance(value, (ListNode, tuple)):
            items = value.items if isinstance(value, ListNode) else value
            stack += [(f"{path}/{i}", v) for i, v in enumerate(items)]


def _found(root: Value, t: TensorEntry) -> Value:
    """The value at a tensor's path."""
    value = root
    for step in map(str, t.path):
        attribute = isinstance(value, Call) and step.startswith(".")
        value = (
            mapping_get(value.state, step[1:]) if attribute and isinstance(value, Call) else mapping_get(value, step)
        )
    return _unwrapped(value)


def _unwrapped(value: Value) -> Value:
    """A tensor without the Parameter and the subclass around it."""
    while isinstance(value, Call) and value.name.endswith(("_rebuild_parameter", "_rebuild_parameter_with_state")):
        value = value.args[0]
    if isinstance(value, Call) and value.name.endswith("_rebuild_from_type_v2"):
        function, _, inner, _ = value.args
        assert isinstance(inner, tuple)
        value = Call(function, inner, "reduce", value.position)
    return value


class _Values:
    """The values of tensors in the form that is hashed: contiguous, little-endian, parts of odd tensors in order."""

    def __init__(self, checkpoint: Checkpoint, source: ByteSource) -> None:
        self._checkpoint = checkpoint
        self._source = source

    def digest(self, tensors: Mapping[str, tuple[TensorEntry, Value]]) -> str:
        """One sha256 over names, dtypes, shapes and values, in the order of the names."""
        out = hashlib.sha256()
        for key in sorted(tensors):
            t, value = tensors[key]
            out.update(f"{key}torch.{t.dtype}{list(t.shape)}".encode())
            out.update(self.of(t, value))
        return out.hexdigest()

    def of(self, t: TensorEntry, call: Value) -> bytes:
        """The bytes of one tensor."""
        parts = TensorReader(self._checkpoint.storages)
        if t.layout == "numpy":
            return _array(call)
        if t.layout == "sparse":
            assert isinstance(call, Call)
            read = parts.read(call, t.key, t.path)
            assert isinstance(read, TensorEntry)
            layout, entries = parts.parts[t.key]
            kind = b"sparse_coo" if layout == "sparse_coo" else b"sparse_csr"
            return kind + b"".join(self._plain(p) for p in entries)
        if t.layout == "quantized":
            return b"quantized" + self._plain(t) + self._quantizer(call, t, parts)
        return self._plain(t)

    def _plain(self, t: TensorEntry) -> bytes:
        storage = self._checkpoint.storages[t.storage_id or ""]
        return b"".join(values.chunks(self._source, t, storage))

    def _quantizer(self, call: Value, t: TensorEntry, parts: TensorReader) -> bytes:
        assert isinstance(call, Call)
        assert isinstance(call.args[4], tuple)
        _, scale, zero, *_ = call.args[4]
        if isinstance(scale, float) and isinstance(zero, int):
            return repr((round(scale, 6), zero)).encode()
        scales, zeros = (parts.read(p, t.key, t.path) for p in (scale, zero))
        assert isinstance(scales, TensorEntry)
        assert isinstance(zeros, TensorEntry)
        numbers = values.decode(self._plain(scales), scales.dtype)
        points = values.decode(self._plain(zeros), zeros.dtype)
        return struct.pack(f"<{len(numbers)}f", *numbers) + struct.pack(f"<{len(points)}q", *map(int, points))


def _array(call: Value) -> bytes:
    """The bytes of the numpy array that a tensor is made of: state (version, shape, dtype, Fortran order, bytes)."""
    assert isinstance(call, Call)
    array = call.args[0]
    assert isinstance(array, Call)
    assert isinstance(array.state, tuple)
    raw = array.state[4]
    if isinstance(raw, Call):  # protocol 2 writes bytes as text: codecs.encode(text, "latin1")
        assert isinstance(raw.args[0], str)
        return raw.args[0].encode("latin1")
    assert isinstance(raw, bytes)
    return raw


# ---------------------------------------------------------------- what else the file holds


def _top_level(checkpoint: Checkpoint, tree: object) -> Iterator[Disagreement]:
    if isinstance(tree, dict):
        yield from _tree(checkpoint.root, tree, "$")
        view = LightningView(checkpoint)
        if "state_dict" in tree:
            yield from _differs("counter", "epoch", view.epoch, tree.get("epoch"))
            yield from _differs("counter", "global_step", view.global_step, tree.get("global_step"))
            yield from _differs("version", "lightning", view.version, tree.get("pytorch-lightning_version"))


def _tree(value: Value, truth: object, path: str) -> Iterator[Disagreement]:
    """Plain values and the keys of dicts, as deep as the JSON goes; what it gives as text stands for other things."""
    pairs = mapping_pairs(value)
    if isinstance(truth, dict):
        if pairs is None and isinstance(value, Call):  # a dict of a class of its own
            pairs = value.pairs
        stated = {k: v for k, v in truth.items() if k != "<type>"}
        last = {_key(k): v for k, v in pairs or ()}
        yield from _differs("tree", path, list(last), list(stated))
        for key in last.keys() & stated.keys():
            yield from _tree(last[key], stated[key], f"{path}.{key}")
    elif isinstance(truth, (bool, int, float)) or truth is None:
        yield from _differs("tree", path, value, truth)
    elif isinstance(value, str):
        told = value if len(value) < 120 else value[:120] + "..."
        yield from _differs("tree", path, _renamed(told), truth)


def _key(key: Value) -> str:
    return f"<class {key.full_name}>" if isinstance(key, Global) else _renamed(str(key))


def _renamed(text: str) -> str:
    """A folder of the machine that wrote the files as the JSON has it."""
    return text.replace(_RUNS, "/RUN/")


def _producer(checkpoint: Checkpoint, truth: Mapping[str, str]) -> Iterator[Disagreement]:
    for name, fact in producer(checkpoint).items():
        real = truth.get(name)
        if real is None:
            continue
        number = _version(real)
        right = (
            (fact.exact is None or _version(fact.exact) == number)
            and (fact.at_least is None or _version(fact.at_least) <= number)
            and (fact.below is None or number < _version(fact.below))
            and not fact.contrary
        )
        if not right:
            yield Disagreement("version", name, fact.to_dict(), real)


def precision(checkpoint: Checkpoint) -> dict[str, str]:
    """How closely the version of each package is told."""
    facts = producer(checkpoint)
    out = {}
    for name in PACKAGES:
        fact = facts.get(name, Produced())
        sides = (fact.at_least is not None) + (fact.below is not None)
        out[name] = "exact" if fact.exact else ("unknown", "one side", "both sides")[sides]
    return out


def _version(text: str) -> tuple[int, ...]:
    numbers = [int(n) for n in re.findall(r"\d+", text.partition("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


# ---------------------------------------------------------------- folders


def _folder(checkpoint: Checkpoint, path: Path, truth: Mapping[str, Any]) -> Iterator[Disagreement]:
    yield from _differs("layout", "container", checkpoint.layout, _FOLDERS[truth["format"]])
    yield from _differs("records", "files", sorted(checkpoint.files), sorted(truth["files"]))
    yield from _differs("size", "bytes", checkpoint.nbytes, sum(f["bytes"] for f in truth["files"].values()))
    for problem in checkpoint.problems[1:]:  # the first says what kind of folder it is
        yield Disagreement("problem", problem.record or "folder", problem.message, "a folder without damage")
    stated = truth.get("consolidated_state_dict") or truth["truth"]["full_state_dict"]
    # The values of a mixed-precision run are kept in float32 by the optimizer, the module's own copy is shorter.
    halves = truth["format"] == "deepspeed" and any("bf16" in name or "fp16" in name for name in truth["files"])
    wanted = {k: {**v, "dtype": "bfloat16"} for k, v in stated.items()} if halves else stated
    yield from _described(checkpoint.tensors, wanted, ordered=False)
    for name, facts in truth["files"].items():
        yield from _differs("values", name, hashlib.sha256((path / name).read_bytes()).hexdigest(), facts["sha256"])
    if not halves:
        yield from _folder_values(checkpoint, path, stated)


def _folder_values(checkpoint: Checkpoint, path: Path, stated: Mapping[str, Any]) -> Iterator[Disagreement]:
    """Values of tensors that lie whole in one file of the folder, or as items of torch.distributed.checkpoint."""
    items = _items(checkpoint) if checkpoint.layout is Layout.DCP else {}
    prefix = "".join(f"{step}." for step in checkpoint.state_dict_path or ())
    for t in checkpoint.tensors:
        file, _, _ = (t.storage_id or "").rpartition(":")
        if t.key not in stated or (not file and prefix + t.key not in items):
            continue
        if file:
            source = LocalSource(path / file)
            raw = b"".join(values.chunks(source, t, checkpoint.storages[t.storage_id or ""]))
            source.close()
        else:
            raw = b"".join(_item(path, *item) for _, *item in sorted(items[prefix + t.key]))
        yield from _differs("values", t.key, hashlib.sha256(raw).hexdigest()[:16], stated[t.key]["sha256"])


def _items(checkpoint: Checkpoint) -> dict[str, list[tuple[tuple[int, ...], str, int, int]]]:
    """Name to (where the piece begins, file, offset, length), from the metadata of torch.distributed.checkpoint.

    Pieces follow each other along the first dimension: that is how FSDP cuts.
    """
    metadata = next(p.root for p in checkpoint.pickles if p.where == ".metadata")
    assert isinstance(metadata, Call)
    out: dict[str, list[tuple[tuple[int, ...], str, int, int]]] = {}
    for index, info in mapping_pairs(mapping_get(metadata.state, "storage_data")) or ():
        assert isinstance(index, Call)
        assert isinstance(info, Call)
        name, begins = mapping_get(index.state, "fqn"), sizes_of(mapping_get(index.state, "offset")) or ()
        file, offset, length = (mapping_get(info.state, k) for k in ("relative_path", "offset", "length"))
        assert isinstance(offset, int)
        assert isinstance(length, int)
        out.setdefault(str(name), []).append((begins, str(file), offset, length))
    return out


def _item(path: Path, file: str, offset: int, length: int) -> bytes:
    """The values of one item: a file of torch.save inside the shard."""
    source = LocalSource(path / file)
    try:
        part = SliceSource(source, offset, length, file)
        checkpoint = read(part)
        t = TensorReader(checkpoint.storages).read(checkpoint.root, "", ObjectPath())
        assert isinstance(t, TensorEntry), t
        return b"".join(values.chunks(part, t, checkpoint.storages[t.storage_id or ""]))
    finally:
        source.close()


def sidecars(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(file or folder, JSON) of every checkpoint below a folder that has one beside it."""
    for beside in sorted(folder.rglob("*.json")):
        path = beside.with_suffix("")
        if path.exists() and path.suffix:
            truth = json.loads(beside.read_text())
            if isinstance(truth, dict) and "container" in truth:
                yield path, truth

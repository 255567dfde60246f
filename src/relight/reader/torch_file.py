"""Files that torch.save writes: the zip layout since 1.6, and the stacked pickles before it.

Source: ``torch/serialization.py`` (``_save``, ``_legacy_save``, ``_legacy_load``) of torch 2.13.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from relight.core.checkpoint import (
    Checkpoint,
    Layout,
    Problem,
    ProblemKind,
    Span,
    StorageEntry,
    StreamFacts,
    TensorEntry,
)
from relight.core.dtypes import BY_NAME
from relight.core.objects import Call, ListNode, ObjectPath, Persistent, Value, mapping_get, mapping_pairs
from relight.core.objects import walk as walk_values
from relight.reader.archive import Archive, scan_forward
from relight.reader.limits import Limits
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import ByteSource
from relight.reader.tensors import as_tensor, module_tensors, out_of_bounds, storage_of, tensors_of

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# Where other programs keep their weights; tried in this order, the fullest wins.
STATE_DICT_KEYS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "params_ema",
    "model_ema", "ema", "ema_state_dict", "generator", "g_ema", "encoder", "backbone", "student", "teacher",
)  # fmt: skip


def read_zip(source: ByteSource, archive: Archive, limits: Limits) -> Checkpoint:
    """A zip archive with a data.pkl."""
    data = archive.read("data.pkl", limits.pickle_bytes)
    if data is None:
        return Checkpoint(
            origin=source.name,
            nbytes=source.size,
            layout=Layout.TORCH_ZIP,
            records=tuple(archive.records.values()),
            problems=tuple(archive.problems),
            bytes_read=source.bytes_read,
        )
    archive.check_crc("data.pkl", data)
    decoded = decode(data, limits=limits, record="data.pkl")
    problems = [*archive.problems, *decoded.problems]
    if decoded.stream.end is not None and decoded.stream.end < len(data):
        problems.append(
            Problem(
                kind=ProblemKind.PICKLE_MALFORMED,
                message=f"{len(data) - decoded.stream.end:,} bytes follow the end of the pickle",
                record="data.pkl",
                position=decoded.stream.end,
            )
        )
    storages: dict[str, StorageEntry] = {}
    for pid in _persistent_ids(decoded.value):
        known = storage_of(pid)
        if known is None:
            continue
        key, dtype, device, numel = known
        nbytes = numel * BY_NAME[dtype].itemsize
        record = archive.records.get(f"data/{key}")
        if key in storages:
            if storages[key].nbytes != nbytes:
                problems.append(_bad(f"data/{key}", "two references disagree about the storage's size"))
            continue
        if record is None:
            problems.append(
                Problem(
                    kind=ProblemKind.RECORD_MISSING,
                    message="the pickle needs this record, and the archive does not have it",
                    fatal=True,
                    record=f"data/{key}",
                )
            )
        elif record.size != nbytes:
            problems.append(
                Problem(
                    kind=ProblemKind.RECORD_SHORT,
                    message=f"the pickle wants {nbytes:,} bytes, the record has {record.size:,}",
                    fatal=record.size < nbytes,
                    record=f"data/{key}",
                )
            )
        storages[key] = StorageEntry(key, dtype, device, numel, nbytes, None if record is None else record.span)
    return _assemble(source, Layout.TORCH_ZIP, decoded, storages, problems, archive, limits)


def _bad(record: str, message: str) -> Problem:
    return Problem(kind=ProblemKind.TENSOR_OUT_OF_BOUNDS, message=message, fatal=True, record=record)


def _persistent_ids(root: Value) -> list[Value]:
    """Ids in the order in which unpickling meets them, as far as the tree shows it."""
    return [value.pid for _, value in walk_values(root) if isinstance(value, Persistent)]


def read_cut_zip(source: ByteSource, archive: Archive, limits: Limits) -> Checkpoint:
    """A zip archive whose end is missing: what its front still tells."""
    problems = list(archive.problems)
    whole: dict[str, Span] = {}
    decoded: Decoded | None = None
    for name, span in scan_forward(source, limit=2000):
        short = name.partition("/")[2] or name
        whole[short] = span
        if short == "data.pkl":
            data = source.read(span.start, min(span.length, limits.pickle_bytes))
            decoded = decode(data, limits=limits, record="data.pkl")
            break
    if decoded is None or decoded.stream.end is None:
        return Checkpoint(
            origin=source.name,
            nbytes=source.size,
            layout=Layout.TORCH_ZIP,
            problems=tuple(problems),
            bytes_read=source.bytes_read,
        )
    storages: dict[str, StorageEntry] = {}
    for pid in _persistent_ids(decoded.value):
        known = storage_of(pid)
        if known is not None:
            key, dtype, device, numel = known
            storages.setdefault(key, StorageEntry(key, dtype, device, numel, numel * BY_NAME[dtype].itemsize, None))
    return _assemble(source, Layout.TORCH_ZIP, decoded, storages, problems, None, limits)


def read_legacy(source: ByteSource, limits: Limits) -> Checkpoint:
    """Five pickles in a row, then the storages: element count and bytes each, in the order of the key list."""
    head = source.read(0, min(source.size, limits.pickle_bytes))
    position = 0
    problems: list[Problem] = []
    decoded: list[Decoded] = []
    for step in ("magic number", "protocol version", "system information", "object", "list of storages"):
        part = decode(head, position, limits=limits)
        decoded.append(part)
        if part.stream.end is None:
            problems += [
                Problem(
                    kind=p.kind,
                    message=f"{step}: {p.message}",
                    fatal=True,
                    what=p.what,
                    position=position + (p.position or 0),
                )
                for p in part.problems
            ]
            break
        position = part.stream.end
    body = decoded[3] if len(decoded) > 3 else Decoded(None, (), StreamFacts(0, {}, None), ())
    if len(decoded) < 5 or decoded[4].stream.end is None:
        if body.stream.end is None:
            return Checkpoint(
                origin=source.name,
                nbytes=source.size,
                layout=Layout.TORCH_LEGACY,
                globals=body.globals,
                problems=tuple(problems),
                bytes_read=source.bytes_read,
            )
        return _assemble(source, Layout.TORCH_LEGACY, body, _claimed(body), problems, None, limits)
    info = decoded[2].value
    order = "<" if mapping_get(info, "little_endian") is not False else ">"
    storages, more = _legacy_storages(source, body, decoded[4].value, position, order)
    return _assemble(source, Layout.TORCH_LEGACY, body, storages, [*problems, *more], None, limits)


def _claimed(body: Decoded) -> dict[str, StorageEntry]:
    out: dict[str, StorageEntry] = {}
    for pid in _persistent_ids(body.value):
        known = storage_of(pid)
        if known is not None:
            key, dtype, device, numel = known
            out.setdefault(key, StorageEntry(key, dtype, device, numel, numel * BY_NAME[dtype].itemsize, None))
    return out


def _legacy_storages(
    source: ByteSource, body: Decoded, keys: Value, position: int, order: str
) -> tuple[dict[str, StorageEntry], list[Problem]]:
    """Walk the storages by their counts; they are in the order of the key list, which is that of the bytes."""
    claimed = _claimed(body)
    problems: list[Problem] = []
    out: dict[str, StorageEntry] = {}
    listed = [k for k in keys.items if isinstance(k, str)] if isinstance(keys, ListNode) else []
    spans: dict[str, Span] = {}
    for key in listed:
        entry = claimed.get(key)
        raw = source.read(position, 8)
        if entry is None or len(raw) < 8:
            what = "is not used by the object" if entry is None else "is missing: the file ends before it"
            problems.append(
                Problem(kind=ProblemKind.TRUNCATED, message=f"storage {key} {what}", fatal=True, position=position)
            )
            break
        (count,) = struct.unpack(order + "q", raw)
        nbytes = count * BY_NAME[entry.dtype].itemsize
        if count < 0 or count != entry.numel:
            problems.append(
                _bad(f"storage {key}", f"the object wants {entry.numel:,} elements, the file announces {count:,}")
            )
            break
        if position + 8 + nbytes > source.size:
            problems.append(
                Problem(
                    kind=ProblemKind.TRUNCATED,
                    message=f"storage {key} has {nbytes:,} bytes, {max(source.size - position - 8, 0):,} are left",
                    fatal=True,
                    position=position,
                )
            )
            break
        spans[key] = Span(position + 8, nbytes)
        position += 8 + nbytes
    else:
        if position < source.size:
            problems.append(
                Problem(
                    kind=ProblemKind.BYTES_AFTER,
                    message=f"{source.size - position:,} bytes stand after the last storage",
                    position=position,
                )
            )
    for key, entry in claimed.items():
        out[key] = StorageEntry(key, entry.dtype, entry.device, entry.numel, entry.nbytes, spans.get(key))
    return out, problems


def read_pickle(source: ByteSource, limits: Limits) -> Checkpoint:
    """A pickle that is no torch file: read all the same, since it may be a state_dict of arrays or a broken file."""
    data = source.read(0, min(source.size, limits.pickle_bytes))
    decoded = decode(data, limits=limits)
    problems = list(decoded.problems)
    if decoded.stream.end is not None:
        problems.append(
            Problem(
                kind=ProblemKind.NOT_A_CHECKPOINT,
                message="a pickle, but not one that torch.save wrote",
                fatal=True,
                what="plain-pickle",
            )
        )
    return _assemble(source, Layout.PICKLE, decoded, {}, problems, None, limits)


def _assemble(
    source: ByteSource,
    layout: Layout,
    decoded: Decoded,
    storages: Mapping[str, StorageEntry],
    problems: list[Problem],
    archive: Archive | None,
    limits: Limits,
) -> Checkpoint:
    path, tensors, extra, metadata = find_state_dict(decoded.value, storages, limits)
    for t in tensors:
        storage = storages.get(t.storage_id or "")
        reason = None if storage is None else out_of_bounds(t, storage)
        if reason is not None:
            problems.append(_bad(t.key, reason))
            break  # one is enough to know that the file is damaged
    return Checkpoint(
        origin=source.name,
        nbytes=source.size,
        layout=layout,
        records=() if archive is None else tuple(archive.records.values()),
        storages=storages,
        root=decoded.value,
        globals=decoded.globals,
        stream=decoded.stream if decoded.stream.end is not None else None,
        state_dict_path=path,
        tensors=tuple(tensors),
        extra_keys=tuple(extra),
        metadata=metadata,
        problems=tuple(problems),
        bytes_read=source.bytes_read,
    )


def find_state_dict(
    root: Value, storages: Mapping[str, StorageEntry], limits: Limits
) -> tuple[ObjectPath | None, list[TensorEntry], list[str], dict[str, int | None] | None]:
    """The model's tensors: where they are, what they are, what else is among them, and their ``_metadata``."""
    here = ObjectPath()
    pairs = mapping_pairs(root)
    if pairs is None:
        if isinstance(root, Call):
            found = list(module_tensors(root, storages, limits.tensors))
            return (here if found else None), found, [], None
        return None, [], [], None
    named = mapping_get(root, "state_dict")
    if mapping_pairs(named) is not None and (_counts(named) > 0 or not mapping_pairs(named)):
        return _taken(named, here / "state_dict", storages, limits)
    if pairs and _counts(root) * 2 > len(pairs):
        return _taken(root, here, storages, limits)
    best: tuple[int, ObjectPath, Value] | None = None
    for key in STATE_DICT_KEYS:
        value = mapping_get(root, key)
        if mapping_pairs(value) is not None:
            count = _counts(value)
            if count and (best is None or count > best[0]):
                best = (count, here / key, value)
    if best is None:
        for key, value in pairs:
            if isinstance(key, str) and mapping_pairs(value) is not None:
                count = _counts(value)
                if count and count * 2 > len(mapping_pairs(value) or ()) and (best is None or count > best[0]):
                    best = (count, here / key, value)
    if best is not None:
        return _taken(best[2], best[1], storages, limits)
    if _counts(root):
        return _taken(root, here, storages, limits)
    return None, [], [], None


def _counts(value: Value) -> int:
    """How many values of a mapping are tensors."""
    return sum(1 for _, v in mapping_pairs(value) or () if isinstance(v, Call) and as_tensor(v, "", ObjectPath(), {}))


def _taken(
    value: Value, path: ObjectPath, storages: Mapping[str, StorageEntry], limits: Limits
) -> tuple[ObjectPath | None, list[TensorEntry], list[str], dict[str, int | None] | None]:
    tensors, extra = tensors_of(value, path, storages, limits.tensors)
    return path, tensors, extra, _metadata(value)


def _metadata(value: Value) -> dict[str, int | None] | None:
    """``_metadata``: versions by module path, from the state of the OrderedDict."""
    if not isinstance(value, Call) or not value.has_state:
        return None
    stored = mapping_get(value.state, "_metadata")
    if mapping_pairs(stored) is None:
        return None
    out: dict[str, int | None] = {}
    for key, entry in mapping_pairs(stored) or ():
        version = mapping_get(entry, "version")
        if isinstance(key, str):
            out[key] = version if isinstance(version, int) else None
    return out


def is_magic(value: Value) -> bool:
    """Whether the first pickle of a file is torch's magic number."""
    return isinstance(value, int) and value == MAGIC

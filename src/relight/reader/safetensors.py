"""safetensors files: a JSON header that describes byte ranges. Format: the README of safetensors, section "Format"."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from relight.core.checkpoint import Checkpoint, Layout, Problem, ProblemKind, Span, StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME, BY_SAFETENSORS
from relight.core.objects import ObjectPath
from relight.reader.limits import Limits
from relight.reader.source import ByteSource

_BRACKETS = re.compile(rb"[\[\]{}]")


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file starts like safetensors: a plausible header length, then an opening brace."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= max(size - 8, 0)


def read(source: ByteSource, limits: Limits) -> Checkpoint:
    """Describe every tensor of the header; ranges are checked as the format asks: no overlap, no hole, to the end."""
    (length,) = struct.unpack("<Q", source.read(0, 8))
    problems: list[Problem] = []
    tensors: list[TensorEntry] = []
    lost: list[TensorEntry] = []
    refused: dict[str, str] = {}
    storages: dict[str, StorageEntry] = {}
    if length > limits.header_bytes:
        problems.append(_problem(ProblemKind.LIMIT, f"the header has {length:,} bytes", what="header_bytes"))
    else:
        header = _header(source.read(8, length), problems)
        spans: list[tuple[int, int, str]] = []
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            found = _tensor(key, entry, 8 + length)
            if isinstance(found, str):
                refused[key] = found
                if len(refused) < 20:
                    problems.append(_problem(ProblemKind.TENSOR_OUT_OF_BOUNDS, f"{key}: {found}"))
                continue
            tensor, storage = found
            assert storage.span is not None
            if storage.span.end > source.size:
                lost.append(tensor)
            else:
                tensors.append(tensor)
            storages[key] = storage
            spans.append((storage.span.start, storage.span.end, key))
        problems += _gaps(sorted(spans), 8 + length, source.size)
    return Checkpoint(
        origin=source.name,
        nbytes=source.size,
        layout=Layout.SAFETENSORS,
        storages=storages,
        state_dict_path=ObjectPath(),
        tensors=tuple(tensors),
        lost=tuple(lost),
        refused=refused | {t.key: "the file ends before its end" for t in lost},
        problems=tuple(problems),
        bytes_read=source.bytes_read,
    )


def metadata(source: ByteSource, limits: Limits) -> dict[str, str]:
    """The texts that a file keeps under ``__metadata__``; none where its header is not sound."""
    raw = source.read(0, 8)
    length = int.from_bytes(raw, "little")
    if len(raw) < 8 or length > limits.header_bytes:
        return {}
    problems: list[Problem] = []
    found = _header(source.read(8, length), problems).get("__metadata__")
    return found if isinstance(found, dict) and not problems else {}


def _problem(kind: ProblemKind, message: str, what: str | None = None) -> Problem:
    return Problem(kind=kind, message=message, fatal=True, what=what)


def _header(raw: bytes, problems: list[Problem]) -> dict[str, Any]:
    doubled: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            doubled.extend(k for k, _ in items)
        return out

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    depth = deepest = 0
    for bracket in _BRACKETS.findall(raw):  # also those inside strings: a name full of them is no real name
        depth += 1 if bracket in b"{[" else -1
        if depth > deepest:
            deepest = depth
    if deepest > 8:
        problems.append(_problem(ProblemKind.LIMIT, f"the header is nested {deepest} deep", what="nesting"))
        return {}
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse)
    except ValueError as error:
        problems.append(_problem(ProblemKind.ARCHIVE_MALFORMED, f"the header is no JSON: {error}"))
        return {}
    if not isinstance(header, dict):
        problems.append(_problem(ProblemKind.ARCHIVE_MALFORMED, "the header is no JSON object"))
        return {}
    extra = header.get("__metadata__")
    if extra is not None and not (isinstance(extra, dict) and all(isinstance(v, str) for v in extra.values())):
        problems.append(_problem(ProblemKind.ARCHIVE_MALFORMED, "__metadata__ holds something that is no text"))
    if doubled:
        problems.append(_problem(ProblemKind.ARCHIVE_AMBIGUOUS, "the header has the same key twice"))
    return header


def _tensor(key: str, entry: Any, start: int) -> tuple[TensorEntry, StorageEntry] | str:
    if not isinstance(entry, dict):
        return "no description"
    code: Any = entry.get("dtype")
    dtype = BY_SAFETENSORS.get(code) if isinstance(code, str) else None
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if dtype is None:
        return f"unknown dtype {entry.get('dtype')!r}"
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        return "a field that the format does not have"
    if not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        return "shape or offsets are not whole numbers"
    numel = 1
    for size in shape:
        numel *= size
    begin, end = offsets
    nbytes = numel * BY_NAME[dtype.name].itemsize
    if end - begin != nbytes:
        return f"{nbytes:,} bytes of values in a range of {end - begin:,}"
    stride = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        stride[i] = stride[i + 1] * max(shape[i + 1], 1)
    storage = StorageEntry(key, dtype.name, "cpu", numel, nbytes, Span(start + begin, nbytes))
    return TensorEntry(key, dtype.name, tuple(shape), tuple(stride), 0, key, "cpu", ObjectPath((key,))), storage


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _gaps(spans: list[tuple[int, int, str]], start: int, size: int) -> list[Problem]:
    position = start
    for begin, end, key in spans:
        if begin != position:
            return [_problem(ProblemKind.ARCHIVE_MALFORMED, f"{key} does not start where the tensor before it ends")]
        position = end
    if position > size:
        return [_problem(ProblemKind.TRUNCATED, f"the tensors end at byte {position:,}, the file at {size:,}")]
    if position < size:
        return [_problem(ProblemKind.BYTES_AFTER, f"{size - position:,} bytes belong to no tensor")]
    return []

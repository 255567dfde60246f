"""``inspect --format json``, schema ``relight/inspect/1``."""

from __future__ import annotations

import math
from typing import Any

from relight.core.checkpoint import Checkpoint
from relight.core.dtypes import BY_NAME
from relight.core.objects import (
    Call,
    DictNode,
    Global,
    ListNode,
    Opaque,
    Persistent,
    SetNode,
    Value,
    mapping_pairs,
    walk,
)
from relight.facts import safety
from relight.facts.lightning import LightningView, type_name
from relight.facts.manifest import manifest_of
from relight.facts.producer import producer

_DEPTH, _ITEMS = 40, 10_000
SCHEMA = "relight/inspect/1"


def to_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything that `inspect` tells, JSON-ready."""
    view = LightningView(checkpoint)
    storages = checkpoint.storages
    manifest = manifest_of(checkpoint)
    return {
        "schema": SCHEMA,
        "path": checkpoint.origin,
        "layout": checkpoint.layout.value,
        "bytes": checkpoint.nbytes,
        "kind": view.kind if checkpoint.readable else None,
        "epoch": view.epoch,
        "global_step": view.global_step,
        "hyper_parameters": {name: plain(value) for name, value in view.hyper_parameters},
        "safety": safety.safety(checkpoint).value,
        "producer": {name: fact.to_dict() for name, fact in producer(checkpoint).items()},
        "state_dict_path": None if checkpoint.state_dict_path is None else str(checkpoint.state_dict_path),
        "state_dict": [
            {
                "key": t.key,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "stride": list(t.stride),
                "device": t.device,
                "storage": t.storage_id,
                "offset": t.offset,
                "nbytes": t.numel * _itemsize(t.dtype),
                "layout": t.layout,
            }
            for t in checkpoint.tensors
        ],
        "lost": [
            {"key": t.key, "dtype": t.dtype, "shape": list(t.shape), "reason": checkpoint.refused.get(t.key, "")}
            for t in checkpoint.lost
        ],
        "extra_keys": list(checkpoint.extra_keys),
        "storages": len(storages),
        "devices": list(dict.fromkeys(s.device for s in storages.values())),
        "globals": _globals(checkpoint),
        "records": len(checkpoint.records),
        "problems": [
            {
                "kind": p.kind.value,
                "what": p.what,
                "message": p.message,
                "fatal": p.fatal,
                "record": p.record,
                "position": p.position,
                "details": dict(p.details),
            }
            for p in checkpoint.problems
        ],
        "manifest": None if manifest is None else dict(manifest.data),
    }


def _itemsize(name: str) -> int:
    dtype = BY_NAME.get(name)
    return 0 if dtype is None else dtype.itemsize


def _globals(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every name as it is written in the file, its role, and a few places that need it."""
    paths: dict[str, list[str]] = {}
    unlisted = {g.full_name for g in checkpoint.globals if safety.role(g.full_name) is None}
    if unlisted:
        for path, value in walk(checkpoint.root):
            name = value.name if isinstance(value, Call) else value.full_name if isinstance(value, Global) else ""
            if name in unlisted and len(paths.setdefault(name, [])) < 5 and str(path) not in paths[name]:
                paths[name].append(str(path))
    return [
        {
            "name": g.stored,
            "resolves_to": g.full_name,
            "role": "dangerous" if safety.is_dangerous(g.full_name) else safety.role(g.full_name) or "unknown",
            "count": g.count,
            "paths": paths.get(g.full_name, []),
        }
        for g in checkpoint.globals
    ]


def plain(value: Value, depth: int = 0) -> Any:
    """A value as JSON; what JSON cannot hold is written as ``{"$type": ...}``."""
    if depth > _DEPTH:
        return {"$type": "...", "reason": "nested deeper than shown"}
    if value is None or isinstance(value, (bool, int, str)):
        return (
            value
            if not isinstance(value, int) or isinstance(value, bool) or abs(value) < 2**63
            else {"$type": "int", "text": str(value)[:400]}
        )
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$type": "float", "text": repr(value)}
    if isinstance(value, bytes):
        return {"$type": "bytes", "length": len(value), "hex": value[:32].hex()}
    if isinstance(value, tuple):
        return {"$type": "tuple", "items": [plain(v, depth + 1) for v in value[:_ITEMS]]}
    if isinstance(value, ListNode):
        return [plain(v, depth + 1) for v in value.items[:_ITEMS]]
    if isinstance(value, SetNode):
        return {
            "$type": "frozenset" if value.frozen else "set",
            "items": [plain(v, depth + 1) for v in value.items[:_ITEMS]],
        }
    if isinstance(value, Global):
        return {"$type": "global", "name": value.full_name}
    pairs = mapping_pairs(value)
    if pairs is not None and (isinstance(value, DictNode) or not value.has_state):  # type: ignore[union-attr]
        return _mapping(pairs, depth)
    if isinstance(value, Call):
        return _call(value, depth)
    if isinstance(value, Persistent):
        return {"$type": "storage"}
    assert isinstance(value, Opaque)
    return {"$type": "opaque", "what": value.what}


def _mapping(pairs: list[tuple[Value, Value]], depth: int) -> Any:
    if all(isinstance(k, str) for k, _ in pairs):
        return {str(k): plain(v, depth + 1) for k, v in pairs[:_ITEMS]}
    return {"$type": "dict", "items": [[plain(k, depth + 1), plain(v, depth + 1)] for k, v in pairs[:_ITEMS]]}


def _call(value: Call, depth: int) -> Any:
    out: dict[str, Any] = {"$type": type_name(value)}
    if value.args:
        out["args"] = [plain(v, depth + 1) for v in value.args[:_ITEMS]]
    if value.pairs:
        out["values"] = _mapping(value.pairs, depth)
    if value.items:
        out["items"] = [plain(v, depth + 1) for v in value.items[:_ITEMS]]
    if value.has_state:
        pairs = mapping_pairs(value.state)
        out["state"] = _mapping(pairs, depth) if pairs is not None else plain(value.state, depth + 1)
    return out

"""The manifest of a checkpoint, found and read; whatever is no manifest is none."""

from __future__ import annotations

import json

from relight.core.checkpoint import Checkpoint
from relight.core.manifest import KEY, SCHEMA, Manifest
from relight.core.objects import Call, Value, mapping_get

_LARGEST = 16 << 20


def manifest_of(checkpoint: Checkpoint) -> Manifest | None:
    """What the program that saved the file wrote down of itself; None where there is nothing of the kind."""
    text = _text(checkpoint)
    if text is None or len(text) > _LARGEST:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        return None
    return Manifest(data)


def _text(checkpoint: Checkpoint) -> str | None:
    if not checkpoint.readable:
        return None
    found = mapping_get(checkpoint.root, KEY)
    if not isinstance(found, str):
        found = mapping_get(_metadata(checkpoint.root), KEY)
    return found if isinstance(found, str) else None


def _metadata(root: Value) -> Value:
    """``_metadata`` of a plain state_dict."""
    return mapping_get(root.state, "_metadata") if isinstance(root, Call) and root.has_state else None

"""A manifest for a file that is there already: what it says, and where in the file it goes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from relight.core.checkpoint import Checkpoint
from relight.core.edits import Choice, Plan, SetEntry
from relight.core.errors import RepairError, SourceError, UsageError
from relight.core.manifest import KEY, SCHEMA
from relight.core.objects import Call, mapping_get
from relight.core.version import __version__
from relight.facts.manifest import manifest_of
from relight.reader import fingerprint
from relight.reader.source import open_local

_INPUT = re.compile(r"(\d+(?:x\d+)*)(?::([a-z]+\d*))?(?::(-?\d+)\.\.(-?\d+))?$")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_MISSING = "the file was there before the manifest"


def input_form(texts: tuple[str, ...]) -> dict[str, Any] | None:
    """The form of an input as people write it: ``8x3x32x32``, ``4x16:int64:0..99``; an argument each.

    Raises:
        UsageError: One of them is none.
    """
    args: list[dict[str, Any]] = []
    for text in texts:
        found = _INPUT.match(text)
        dtype = (found[2] or ("float32" if found[3] is None else "int64")) if found else ""
        if (
            found is None
            or dtype not in (*_INTEGERS, *_FLOATS, "bool")
            or (found[3] is not None) != (dtype in _INTEGERS)
        ):
            raise UsageError(
                f"--input {text}: this is no form of an input",
                "As in 8x3x32x32, or 4x16:int64:0..99, where 0 and 99 are the least and the largest value.",
            )
        form: dict[str, Any] = {"tensor": dtype, "shape": [int(n) for n in found[1].split("x")]}
        if found[3] is not None:
            form.update(low=min(int(found[3]), int(found[4])), high=max(int(found[3]), int(found[4])))
        args.append(form)
    return {"args": args, "kwargs": {}} if args else None


def refuse(checkpoint: Checkpoint) -> None:
    """See that the file has a place for a manifest, and none that says more.

    Raises:
        RepairError: It has not.
    """
    known = manifest_of(checkpoint)
    if known is not None and known.sealed is None:
        when = f" of {known.created}" if known.created else ""
        raise RepairError(checkpoint.origin, f"it has a manifest{when} already, written by the program that saved it")
    if checkpoint.state_dict_path is None:
        raise RepairError(checkpoint.origin, "it holds no state_dict that a manifest could describe")
    if not checkpoint.state_dict_path and _stored_metadata(checkpoint) is None:
        raise RepairError(
            checkpoint.origin,
            "it is a plain dict of tensors: a manifest would be an entry that load_state_dict takes for a tensor",
        )


def _stored_metadata(checkpoint: Checkpoint) -> object:
    root = checkpoint.root
    return mapping_get(root.state, "_metadata") if isinstance(root, Call) and root.has_state else None


def text(checkpoint: Checkpoint, parts: Mapping[str, Any], target: str) -> str:
    """The manifest: what the child process said of the model, and a digest of each tensor of the file."""
    omitted = {str(k): str(v) for k, v in dict(parts.get("omitted") or {}).items()}
    omitted.update(training=_MISSING, command=_MISSING)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "relight": __version__,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sealed": {"target": target},
        **{k: v for k, v in parts.items() if k != "omitted"},
        "integrity": _integrity(checkpoint),
        "omitted": omitted,
    }
    return json.dumps(data, separators=(",", ":"))


def _integrity(checkpoint: Checkpoint) -> dict[str, Any]:
    tensors: dict[str, list[str]] = {}
    without: dict[str, str] = {}
    source = open_local(checkpoint.origin)
    try:
        for tensor in checkpoint.tensors:
            storage = checkpoint.storages.get(tensor.storage_id or "")
            span = fingerprint.span_of(tensor, storage)
            if span is None or storage is None:
                without[tensor.key] = "its values do not lie one behind the other"
                continue
            try:
                total = fingerprint.total(source, tensor, storage)
                tensors[tensor.key] = [total, fingerprint.sample(source, tensor, span)]
            except (SourceError, ValueError) as error:
                without[tensor.key] = str(error)
    finally:
        source.close()
    return {"algorithm": fingerprint.ALGORITHM, "tensors": tensors, "without": without}


def plan(checkpoint: Checkpoint, digest: str, text: str) -> Plan:
    """The one edit: an entry of the dictionary, or of the ``_metadata`` of a plain state_dict."""
    path = (KEY,) if checkpoint.state_dict_path else ("_metadata", KEY)
    choice = Choice(
        code="", name="seal", message="no manifest says what the model computes", title="Describe the model of today."
    )
    return Plan(source=checkpoint.origin, digest=digest, edits=(SetEntry(path, text),), chosen=(choice,))

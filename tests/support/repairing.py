"""Repairs in tests: a plan for a file from its edits, and what reading a file gives, to be compared."""

from __future__ import annotations

from relight.core.edits import Edit, Plan, Written
from relight.reader import open_checkpoint
from relight.repair.rewriter import digest_of, rewrite


def plan_of(path, *edits: Edit) -> Plan:
    return Plan(source=str(path), digest=digest_of(str(path)), edits=edits)


def repaired(path, output, *edits: Edit) -> Written:
    output.unlink(missing_ok=True)
    return rewrite(plan_of(path, *edits), str(path), str(output))


def rows(path) -> dict[str, tuple[object, ...]]:
    """Of every tensor: dtype, shape, stride, offset, device, and the bytes of its storage."""
    checkpoint = open_checkpoint(path)
    assert checkpoint.problems == ()
    data = path.read_bytes()
    out = {}
    for t in checkpoint.tensors:
        storage = checkpoint.storages[t.storage_id]
        content = data[storage.span.start : storage.span.end]
        out[t.key] = (t.dtype, t.shape, t.stride, t.offset, t.device, content)
    return out

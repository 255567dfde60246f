"""What is intact in a damaged file: taken by checksum where there is one, and everything that is not taken is listed."""

from __future__ import annotations

import os
import zlib

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError
from relight.core.objects import Call, DictNode, ObjectPath, Persistent, Value, mapping_get, mapping_pairs, nodes
from relight.reader import checksum, open_checkpoint
from relight.reader.tensors import StorageClaim, storage_claim
from relight.repair.dcp_material import of_dcp
from relight.repair.deepspeed_material import of_deepspeed
from relight.repair.material import SINGLE, Material, described, expected, ordered, tensor_node, whole_file
from relight.repair.sharded_material import of_shards
from relight.repair.stored import Files

_OF_THE_PICKLE = (ProblemKind.PICKLE_MALFORMED, ProblemKind.CRC_MISMATCH, ProblemKind.LIMIT)
_MANY = 8


def salvaged(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    """What is intact of a file.

    Tensors are taken whose bytes are all there and have the checksum that the file records for them. The rest of the
    checkpoint is taken, entry by entry, where its pickle is whole; else the weights alone.

    Raises:
        RepairError: Nothing is.
    """
    if checkpoint.layout not in SINGLE or not (checkpoint.tensors or checkpoint.readable):
        first = checkpoint.problems[0].message if checkpoint.problems else f"its layout is {checkpoint.layout.value}"
        raise RepairError(path, f"nothing of it can be had: {first}")
    encrypted = next(checkpoint.problems_of(ProblemKind.ENCRYPTED), None)
    if encrypted is not None:
        raise RepairError(path, f"nothing of it can be had: {encrypted.message}")
    material = whole_file(path, files, checkpoint)
    bad = _bad_storages(material, checkpoint)
    lost = {t.key: checkpoint.refused.get(t.key, "its values are not all there") for t in checkpoint.lost}
    lost |= {k: reason for k, reason in checkpoint.refused.items() if k not in lost}
    pickle_is_whole = checkpoint.layout is Layout.SAFETENSORS or _pickle_is_whole(path, files, checkpoint)
    kept = [t for t in material.tensors if (t.storage_id or "") not in bad]
    lost |= {t.key: bad[t.storage_id or ""] for t in material.tensors if (t.storage_id or "") in bad}
    if pickle_is_whole and not bad and not lost:
        pass  # damage that concerns nothing of what it holds
    elif pickle_is_whole and checkpoint.layout is not Layout.SAFETENSORS and mapping_pairs(checkpoint.root) is not None:
        _filter(material, bad, lost)
    else:
        material.root = ordered(
            (t.key, tensor_node(t, t.storage_id or "", _elements(material, t.storage_id or "", t.dtype))) for t in kept
        )
        material.state_dict = ObjectPath()
        material.left_out += material.unplain
        if checkpoint.layout is not Layout.SAFETENSORS:
            reason = (
                "it is one object, and part of it is gone" if pickle_is_whole else "the pickle that holds it is damaged"
            )
            material.left_out.append(("everything but the tensors of the state_dict", reason))
    return _told(path, material, checkpoint, lost)


def salvaged_folder(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    """What is intact of a folder, where some of its files are damaged or missing.

    Raises:
        RepairError: Nothing is, or nothing can be told apart: the layout gives every file a part of every tensor.
    """
    lost: dict[str, str] = {}
    if checkpoint.layout is Layout.DCP:
        return _told(path, of_dcp(path, files, checkpoint, lost), checkpoint, lost)
    if checkpoint.layout is Layout.SHARDED:
        return _told(path, of_shards(path, files, checkpoint, lost), checkpoint, lost)
    if checkpoint.layout is not Layout.DEEPSPEED:
        raise RepairError(path, f"nothing of it can be had: it is {checkpoint.problems[0].message}")
    try:
        return of_deepspeed(path, files, checkpoint)
    except RepairError as error:
        text = "under ZeRO every process has a part of every weight, so nothing of it is salvaged"
        raise RepairError(path, f"{text}: {error.reason.removeprefix('nothing is written, ')}{_in_use(path)}") from None


def _in_use(path: str) -> str:
    """Where the weights are whole that the model computed with: up to stage 2, the file of model states has them."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name.startswith("mp_rank_") and name.endswith("_model_states.pt"):
                file = os.path.join(folder, name)
                found = open_checkpoint(file)
                if found.tensors and all(t.numel for t in found.tensors) and not found.problems:
                    return f". Those that the model computed with are whole in {file}, which can be converted by itself"
    return ""


def _told(path: str, material: Material, checkpoint: Checkpoint, lost: dict[str, str]) -> Material:
    """A material with what is not in it, and what is wrong with its source.

    Raises:
        RepairError: It has no weights.
    """
    material.left_out += sorted(lost.items())
    wrong = [p for p in checkpoint.problems if not os.path.isdir(path) or not expected(p)]
    problems = list(dict.fromkeys(f"{p.record}: {p.message}" if p.record else p.message for p in wrong))
    material.changes = [("damage", text) for text in problems[:_MANY]] + material.changes
    if len(problems) > _MANY:
        material.changes.insert(_MANY, ("damage", f"and {len(problems) - _MANY} more"))
    material = described(material)
    if not material.tensors and not material.unplain:
        why = f": {next(iter(lost.values()))}" if lost else ""
        raise RepairError(path, f"nothing of its weights is intact{why}")
    return material


def _elements(material: Material, key: str, dtype: str) -> int:
    return material.storages[key].nbytes // BY_NAME[dtype].itemsize


def _bad_storages(material: Material, checkpoint: Checkpoint) -> dict[str, str]:
    """Storages whose bytes are not what they were, or not all there: why, by key."""
    bad: dict[str, str] = {}
    for key in checkpoint.storages:
        content = material.storages.get(key)
        if content is None:
            bad[key] = "the file ends before the end of its storage"
            continue
        try:
            crc, crc32 = 0, checksum.fastest()
            for data in content.chunks():
                crc = crc32(data, crc)
        except RepairError as error:
            bad[key] = error.reason
            continue
        if content.crc is not None and crc != content.crc:
            bad[key] = "the checksum of its storage is wrong: bytes have changed"
    return bad


def _pickle_is_whole(path: str, files: Files, checkpoint: Checkpoint) -> bool:
    """Whether what the pickle says can be trusted: it ends as it should, and its checksum is right."""
    if checkpoint.stream is None:
        return False
    if any(p.record in (None, "data.pkl") for p in checkpoint.problems_of(*_OF_THE_PICKLE)):
        return False
    record = next((r for r in checkpoint.records if r.name == "data.pkl"), None)
    if record is None or record.crc32 is None:
        return True
    return record.compressed or zlib.crc32(files.read(path, *record.span)) == record.crc32


def _filter(material: Material, bad: dict[str, str], lost: dict[str, str]) -> None:
    """Take out of the tree what refers to bytes that are gone: by tensor in the state_dict, by entry elsewhere."""
    root = material.root
    holder: Value = root
    for step in material.state_dict or ():
        holder = mapping_get(holder, str(step))
    if material.state_dict is not None and isinstance(holder, (DictNode, Call)):
        pairs = []
        for key, value in mapping_pairs(holder) or ():
            reason = lost.get(str(key)) or _reason(value, bad)
            if reason is None:
                pairs.append((key, value))
            else:
                lost[str(key)] = reason
        holder.pairs = pairs
        if isinstance(holder, Call) and holder.name != "collections.defaultdict":
            holder.args = ()
    if holder is root or not isinstance(root, (DictNode, Call)):
        return
    kept = []
    for key, value in mapping_pairs(root) or ():
        reason = _reason(value, bad)
        if reason is None:
            kept.append((key, value))
        else:
            material.left_out.append((str(key), f"a tensor in it: {reason}"))
    root.pairs = kept


def _reason(value: Value, bad: dict[str, str]) -> str | None:
    """Why a value cannot be had; None where it can."""
    for node in nodes(value):
        if isinstance(node, Persistent):
            claim = storage_claim(node.pid)
            if not isinstance(claim, StorageClaim):
                return claim.reason
            if claim.key in bad:
                return bad[claim.key]
    return None

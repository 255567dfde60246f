"""Checkpoints that are folders: shards with an index, DeepSpeed's, and (in `dcp`) those of torch.distributed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind, TensorEntry
from relight.core.objects import ListNode, ObjectPath, Value, mapping_get, mapping_pairs
from relight.reader import dcp, pieces
from relight.reader.folder import Folder, ReadFile, plain_name
from relight.reader.json_text import parse_json
from relight.reader.limits import Limits
from relight.reader.tensors import sizes_of

_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_(model|optim)_states\.pt$")


def read_folder(path: str, limits: Limits, read_file: ReadFile) -> Checkpoint:
    """What a folder is, by what lies in it.

    Args:
        path: Where it is.
        limits: What reading may cost.
        read_file: Reads one file.

    Raises:
        SourceError: The folder cannot be listed.
    """
    folder = Folder(os.fspath(path), limits, read_file)
    folder.scan()
    names = list(folder.files)
    index = next((n for n in names if n.endswith(".index.json") and "/" not in n), None)
    if ".metadata" in folder.files or any(n.endswith(".distcp") and "/" not in n for n in names):
        return dcp.read(folder)
    if (
        "latest" in folder.files
        or "zero_to_fp32.py" in folder.files
        or any("zero_pp_rank" in n or "mp_rank_" in n for n in names)
        or any(n.startswith("checkpoint/") for n in names)
    ):
        return _deepspeed(folder)
    if index is not None:
        return _indexed(folder, index)
    found = pieces.find(folder)
    if found:
        return pieces.read(folder, found)
    folder.rest(set())
    return folder.checkpoint(Layout.DIRECTORY, "directory")


# ---------------------------------------------------------------- shards and an index


def _indexed(folder: Folder, index: str) -> Checkpoint:
    """``{"metadata": ..., "weight_map": {key: file}}``, as Hugging Face libraries write it."""
    wanted = _weight_map(folder, index)
    tensors: list[TensorEntry] = []
    lost: list[TensorEntry] = []
    refused: dict[str, str] = {}
    by_shard: dict[str, list[str]] = {}
    for key, shard in wanted.items():
        by_shard.setdefault(shard, []).append(key)
    for shard, keys in by_shard.items():
        if shard not in folder.files:
            message = f"the index needs this file for {len(keys):,} tensors, and it is not there"
            folder.problem(ProblemKind.RECORD_MISSING, message, shard)
            refused |= dict.fromkeys(keys, f"{shard} is missing")
            continue
        checkpoint = folder.read(shard)
        if checkpoint is None:
            continue
        if shard.endswith(".safetensors") and checkpoint.layout is not Layout.SAFETENSORS:
            folder.problem(ProblemKind.ARCHIVE_MALFORMED, pieces.no_safetensors(checkpoint), shard)
            refused |= dict.fromkeys(keys, f"{shard} is no safetensors file")
            continue
        here = {t.key: t for t in checkpoint.tensors}
        gone = {t.key: t for t in checkpoint.lost}
        for key in keys:
            if key in here:
                tensors.append(folder.owned(shard, here.pop(key), checkpoint))
                continue
            refused[key] = checkpoint.refused.get(key, f"{shard} does not have it")
            if key in gone:
                lost.append(folder.owned(shard, gone[key], checkpoint))
            elif key not in checkpoint.refused:
                message = f"the index says that {key} is in this file, and it is not"
                folder.problem(ProblemKind.RECORD_MISSING, message, shard)
        for key in here:
            message = f"{key} is in this file, and the index does not say so"
            folder.problem(ProblemKind.ARCHIVE_AMBIGUOUS, message, shard, fatal=False)
    folder.rest(set(by_shard))
    return replace(
        folder.checkpoint(Layout.SHARDED, "sharded-index"),
        state_dict_path=ObjectPath() if wanted else None,
        tensors=tuple(tensors),
        lost=tuple(lost),
        refused=refused,
    )


def _weight_map(folder: Folder, index: str) -> dict[str, str]:
    """Which file holds which tensor, as far as the index is one."""
    raw = folder.bytes_of(index, folder.limits.directory_bytes)
    found = parse_json(raw)
    if isinstance(found, str):
        folder.problem(ProblemKind.ARCHIVE_MALFORMED, f"the index {found}", index)
        return {}
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict):
        folder.problem(ProblemKind.ARCHIVE_MALFORMED, "the index has no weight_map", index)
        return {}
    out: dict[str, str] = {}
    for key, shard in weight_map.items():
        if not plain_name(shard) or shard == index:
            message = f"the index names {str(shard)[:80]!r}, which is no file of this folder"
            folder.problem(ProblemKind.ARCHIVE_MALFORMED, message, index)
        else:
            out[key] = shard
    return out


# ---------------------------------------------------------------- DeepSpeed


def _deepspeed(folder: Folder) -> Checkpoint:
    """``latest`` names a folder with the states of the model and, by rank, of the optimizer.

    Source: ``save_checkpoint`` of deepspeed 0.14, ``runtime/engine.py``; Lightning's folder is called ``checkpoint``.
    """
    tag = _tag(folder)
    states = [n for n in folder.files if n.endswith("_states.pt") and (tag is None or n.startswith(f"{tag}/"))]
    models = [n for n in states if n.endswith("model_states.pt")]
    ranks = sorted({int(m.group(1)) for m in map(_RANK.search, states) if m is not None})
    if not models:
        folder.problem(ProblemKind.RECORD_MISSING, "there is no file of model states", tag)
    for rank in range((ranks or [-1])[-1] + 1):
        if rank not in ranks:
            name = f"zero_pp_rank_{rank}"
            folder.problem(ProblemKind.RECORD_MISSING, f"the states of rank {rank} are missing", name)
    read = {name: folder.read(name) for name in states}
    main = next((read[n] for n in models if read[n] is not None), None)
    folder.rest(set(states))
    out = folder.checkpoint(Layout.DEEPSPEED, "deepspeed", main)
    out = replace(
        out,
        problems=(
            replace(
                out.problems[0],
                message=f"a DeepSpeed folder: {len(states)} files of states, written by {len(ranks) or 1} processes",
                details={"world_size": len(ranks) or 1, "files": len(states)},
            ),
            *out.problems[1:],
        ),
    )
    if main is None:
        return out
    shapes = dict(_partitioned(main.root))
    if shapes:  # stage 3: the module holds empty stand-ins, the shapes are beside it, the values in the ranks' files
        dtypes = {t.key: t.dtype for t in main.tensors}
        tensors = tuple(
            TensorEntry(key, dtypes.get(key, "float32"), shape, (), 0, None, "cpu", ObjectPath(("module", key)),
                        layout="distributed")
            for key, shape in shapes.items()
        )  # fmt: skip
        buffers = tuple(t for t in main.tensors if t.key not in shapes and t.numel)
        return replace(out, state_dict_path=ObjectPath(("module",)), tensors=(*tensors, *buffers))
    name = next(n for n in models if read[n] is main)
    return replace(
        out,
        state_dict_path=main.state_dict_path,
        tensors=tuple(folder.owned(name, t, main) for t in main.tensors),
        lost=tuple(folder.owned(name, t, main) for t in main.lost),
        refused=main.refused,
        extra_keys=main.extra_keys,
        metadata=main.metadata,
    )


def _tag(folder: Folder) -> str | None:
    """The folder that ``latest`` names; None where there is no such file."""
    if "latest" not in folder.files:
        return None
    tag = folder.bytes_of("latest", 4096).decode("utf-8", "replace").strip()
    if not plain_name(tag):
        message = f"latest names {tag[:80]!r}, which is no folder of this folder"
        folder.problem(ProblemKind.ARCHIVE_MALFORMED, message, "latest")
        return None
    if not any(n.startswith(f"{tag}/") for n in folder.files):
        folder.problem(ProblemKind.RECORD_MISSING, f"latest names {tag}, and there is no such folder", "latest")
    return tag


def _partitioned(root: Value) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shapes of a stage 3 checkpoint: ``param_shapes`` is a list of {key: size}, one per parameter group."""
    stage = mapping_get(mapping_get(root, "ds_config"), "zero_optimization")
    module = mapping_get(root, "module")
    groups = mapping_get(root, "param_shapes")
    if mapping_get(stage, "stage") != 3 and mapping_pairs(module):
        return
    for group in groups.items if isinstance(groups, ListNode) else [groups]:
        for key, size in mapping_pairs(group) or ():
            shape = sizes_of(size)
            if isinstance(key, str) and shape is not None:
                yield key, shape

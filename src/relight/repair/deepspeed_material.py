"""Folders of DeepSpeed as one file, in bounded memory: the weights of ZeRO 1, 2 and 3, and what an optimizer kept.

Sources: ``zero_to_fp32.py`` of deepspeed 0.14 and 0.16, which DeepSpeed copies into such folders, for where every weight is;
``convert_zero_checkpoint_to_fp32_state_dict`` in ``lightning/pytorch/utilities/deepspeed.py`` of Lightning 2.6 for what
Lightning makes of it; ``_get_state_for_elastic`` and ``state_dict`` in ``deepspeed/runtime/zero/stage_1_and_2.py``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from relight.core.checkpoint import Checkpoint
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError
from relight.core.objects import Call, DictNode, ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.reader import open_checkpoint
from relight.reader.tensors import sizes_of
from relight.repair.material import Material, described, ordered, sound
from relight.repair.merging import Merged, read_tensor, values_of
from relight.repair.sharded_material import folder_material
from relight.repair.stored import Files, Pieces, Run, Stored

_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_(model|optim)_states\.pt$")
_WRAPPER = "_forward_module."
# What DeepSpeed itself adds to what it is given. Source: _save_checkpoint in deepspeed/runtime/engine.py, 0.14 and 0.16.
_OWN = frozenset(
    {
        "module", "buffer_names", "optimizer", "param_shapes", "frozen_param_shapes", "shared_params",
        "frozen_param_fragments", "lr_scheduler", "data_sampler", "random_ltd", "sparse_tensor_module_names",
        "csr_tensor_module_names", "skipped_steps", "global_steps", "global_samples", "dp_world_size", "mp_world_size",
        "ds_config", "ds_version", "ignore_frozen_parameters",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _File:
    """One file of states that was read."""

    path: str
    checkpoint: Checkpoint

    @property
    def root(self) -> Value:
        """Its object."""
        return self.checkpoint.root


@dataclass(frozen=True, slots=True)
class _Flat:
    """A flat run of values that lies in parts, one behind the other.

    Attributes:
        parts: (values, how many).
    """

    dtype: str
    parts: tuple[tuple[Stored, int], ...]

    @property
    def numel(self) -> int:
        """How many values."""
        return sum(n for _, n in self.parts)

    def slice(self, start: int, count: int) -> list[Run]:
        """A part of it, as ranges."""
        size = BY_NAME[self.dtype].itemsize
        out: list[Run] = []
        at = 0
        for content, numel in self.parts:
            first, last = max(start - at, 0), min(start + count - at, numel)
            if first < last:
                out.append(Run(content, first * size, (last - first) * size))
            at += numel
        if sum(r.length for r in out) != count * size:
            raise RepairError("", "the partitions have fewer values than the parameters")
        return out


@dataclass(slots=True)
class _Folder:
    """What is needed of such a folder."""

    path: str
    files: Files
    merged: Merged
    models: list[_File]
    optims: list[_File]
    stage: int
    world: int
    groups: list[dict[str, tuple[int, ...]]]  # shapes of trained parameters, by parameter group
    left_out: list[tuple[str, str]] = field(default_factory=list)


def of_deepspeed(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    """What such a folder is made of.

    Raises:
        RepairError: A file of a process is missing, which is named; or the partitions do not fit the parameters.
    """
    folder = _opened(path, files, checkpoint)
    sound(checkpoint, path)
    main = folder.models[0]
    weights = _weights(folder)
    root = DictNode()
    for key, value in mapping_pairs(main.root) or ():
        if isinstance(key, str) and key not in _OWN:
            root.pairs.append((key, folder.merged.tree(value, main.checkpoint, main.path)))
    gone = [k for k, v in mapping_pairs(main.root) or () if k in ("lr_scheduler", "data_sampler") and v is not None]
    folder.left_out += [(str(k), "DeepSpeed's own") for k in gone]
    pairs = list(weights.items())
    if pairs and all(k.startswith(_WRAPPER) for k, _ in pairs):  # Lightning before 2.1
        pairs = [(k[len(_WRAPPER) :], v) for k, v in pairs]
    root.pairs.append(("state_dict", ordered(pairs)))
    try:
        states = _optimizer(folder)
    except _NotWhole as error:
        folder.left_out.append(("optimizer states", str(error)))
    else:
        root.pairs.append(("optimizer_states", ListNode([states])))
    out = described(folder_material(path, files, checkpoint, root=root, storages=folder.merged.storages))
    out.changes.append(("weights", _where(folder)))
    out.left_out += folder.left_out
    return out


def _where(folder: _Folder) -> str:
    if not folder.optims:
        return "those of the model"
    return f"ZeRO stage {folder.stage}: the full-precision copies of {folder.world} processes, put together"


def _opened(path: str, files: Files, checkpoint: Checkpoint) -> _Folder:
    """Find the files, and name those that are missing before anything else is looked at."""
    tag = ""
    if "latest" in checkpoint.files:
        tag = (
            files.read(os.path.join(path, "latest"), 0, os.path.getsize(os.path.join(path, "latest"))).decode().strip()
        )
    names = [n for n in checkpoint.files if n.endswith("_states.pt") and (not tag or n.startswith(f"{tag}/"))]
    folders = {n.rpartition("/")[0] for n in names}
    if len(folders) > 1:
        raise RepairError(
            path, f"it has the states of several steps ({', '.join(sorted(folders)[:5])}) and no file `latest`"
        )
    ranks: dict[str, dict[int, str]] = {"model": {}, "optim": {}}
    for name in names:
        match = _RANK.search(name)
        if match is not None:
            if int(match.group(2)):
                raise RepairError(path, "the model was cut by tensor parallelism, along dimensions that no file states")
            ranks[match.group(3)][int(match.group(1))] = name
    plain = sorted(n for n in names if n.rpartition("/")[2].startswith("mp_rank_"))
    if len(plain) > 1:
        raise RepairError(path, "the model was cut by tensor parallelism, along dimensions that no file states")
    mains = [ranks["model"][r] for r in sorted(ranks["model"])] or plain
    if not mains:
        raise RepairError(path, "nothing is written, it is not whole: there is no file of model states")
    models = [_read(path, n) for n in mains]
    optims = [_read(path, ranks["optim"][r]) for r in sorted(ranks["optim"])]
    first = _state(optims[0]) if optims else None
    stage, world = _stage(first), _number(mapping_get(first, "partition_count"))
    if optims:
        if stage not in (1, 2, 3) or not world:
            raise RepairError(path, f"{optims[0].path} states no ZeRO stage that is known")
        need = {"optim": world, "model": world if stage == 3 else 0}
        for what, count in need.items():
            missing = [r for r in range(count) if r not in ranks[what]]
            if missing:
                shown = ", ".join(f"zero_pp_rank_{r}_mp_rank_00_{what}_states.pt" for r in missing[:8])
                more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
                raise RepairError(
                    path, f"nothing is written, it is not whole: {shown}{more}: {world} processes wrote it"
                )
    else:
        config = mapping_get(mapping_get(models[0].root, "ds_config"), "zero_optimization")
        if _number(mapping_get(config, "stage")):
            raise RepairError(path, "nothing is written, it is not whole: no *_optim_states.pt, which hold the weights")
    groups = list(_shapes(mapping_get(models[0].root, "param_shapes")))
    return _Folder(path, files, Merged(files), models, optims, stage, world, groups)


def _read(path: str, name: str) -> _File:
    found = open_checkpoint(os.path.join(path, name))
    sound(found, os.path.join(path, name))
    return _File(os.path.join(path, name), found)


def _state(file: _File) -> Value:
    return mapping_get(file.root, "optimizer_state_dict")


def _stage(state: Value) -> int:
    """The ZeRO stage; 0 where none is known.

    BF16_Optimizer, which stage 1 takes where gradients are summed up in float32, states none, and DeepSpeed's own
    ``zero_to_fp32`` refuses its folders. It cuts flat runs as stage 1 does. Source: ``deepspeed/runtime/bf16_optimizer.py``
    of deepspeed 0.9.5 and 0.16.9, ``state_dict`` and ``_setup_for_real_optimizer``.
    """
    if mapping_has(state, "zero_stage"):
        return _number(mapping_get(state, "zero_stage"))
    return 1 if isinstance(mapping_get(state, "single_partition_of_fp32_groups"), ListNode) else 0


def _number(value: Value) -> int:
    """A number, a member of an enum, or the largest of a list: parameters of experts have partitions of their own."""
    if isinstance(value, Call) and value.args:
        value = value.args[0]
    if isinstance(value, ListNode):
        return max((v for v in value.items if isinstance(v, int)), default=0)
    return value if isinstance(value, int) else 0


def _shapes(value: Value) -> Iterator[dict[str, tuple[int, ...]]]:
    for group in value.items if isinstance(value, ListNode) else [value]:
        out: dict[str, tuple[int, ...]] = {}
        for key, size in mapping_pairs(group) or ():
            shape = sizes_of(size)
            if isinstance(key, str) and shape is not None:
                out[key] = shape
        if out:
            yield out


# ---------------------------------------------------------------- weights


def _weights(folder: _Folder) -> dict[str, Value]:
    """Every entry of the state_dict, in the order of the model."""
    main = folder.models[0]
    module = {k: v for k, v in mapping_pairs(mapping_get(main.root, "module")) or () if isinstance(k, str)}
    made: dict[str, Value] = {}
    if folder.optims:
        for key, _, shape, content, dtype in _trained(folder, _masters(folder)):
            made[key] = folder.merged.tensor(dtype, shape, content)
        made |= _frozen(folder)
    shared = {k: v for k, v in mapping_pairs(mapping_get(main.root, "shared_params")) or () if isinstance(k, str)}
    out: dict[str, Value] = {}
    for key, value in module.items():
        other = shared.get(key)
        if key in made:
            out[key] = made[key]
        elif isinstance(other, str) and other in made:
            out[key] = made[other]  # one tensor under two names
        else:
            entry = read_tensor(value, main.checkpoint)
            if entry is not None and not entry.numel and folder.stage == 3:
                raise RepairError(folder.path, f"{key}: no file has its values")
            out[key] = folder.merged.tree(value, main.checkpoint, main.path)
    out |= {k: v for k, v in made.items() if k not in out}
    for key, other in shared.items():
        if key not in out and isinstance(other, str) and other in out:
            out[key] = out[other]
    return out


def _flat(folder: _Folder, file: _File, value: Value) -> tuple[str, Stored, int]:
    entry = read_tensor(value, file.checkpoint)
    if entry is None:
        raise RepairError(folder.path, f"{file.path}: a partition is no tensor")
    return entry.dtype, values_of(folder.files, entry, file.checkpoint, file.path), entry.numel


def _masters(folder: _Folder) -> list[list[Value]]:
    """The full-precision partitions: by process, then by group."""
    name = "fp32_flat_groups" if folder.stage == 3 else "single_partition_of_fp32_groups"
    out = []
    for file in folder.optims:
        groups = mapping_get(_state(file), name)
        if not isinstance(groups, ListNode):
            raise RepairError(folder.path, f"{file.path} has no {name}")
        out.append(groups.items)
    if len({len(groups) for groups in out}) != 1:
        raise RepairError(folder.path, "the processes have different numbers of groups")
    return out


def _trained(
    folder: _Folder, partitions: Sequence[Sequence[Value]]
) -> Iterator[tuple[str, int, tuple[int, ...], Stored, str]]:
    """Cut values by parameter: (name, its group, shape, values, dtype).

    Args:
        folder: Where they are.
        partitions: By process, then by group: the weights, or something that lies in the same way.

    Raises:
        RepairError: They do not fit the parameters.
    """
    if folder.stage == 3:
        yield from _by_parameter(folder, partitions)
        return
    if len(partitions[0]) != len(folder.groups):
        raise RepairError(
            folder.path, f"{len(folder.groups)} groups of parameters and {len(partitions[0])} of partitions"
        )
    for number, shapes in enumerate(folder.groups):
        read = [_flat(folder, file, groups[number]) for file, groups in zip(folder.optims, partitions, strict=True)]
        flat = _Flat(_one_dtype(folder, read), tuple((content, numel) for _, content, numel in read))
        need = sum(map(math.prod, shapes.values()))
        align = 2 * folder.world
        if need > flat.numel or -(-need // align) != -(-flat.numel // align):
            raise RepairError(folder.path, f"group {number} has {flat.numel:,} values for {need:,} of its parameters")
        at = 0
        for key, shape in shapes.items():
            count = math.prod(shape)
            yield key, number, shape, _content(flat.slice(at, count)), flat.dtype
            at += count


def _by_parameter(
    folder: _Folder, partitions: Sequence[Sequence[Value]]
) -> Iterator[tuple[str, int, tuple[int, ...], Stored, str]]:
    """Stage 3 cuts every parameter by itself: each process has its part of each, padded to the same size."""
    flats: list[_Flat] = []
    for file, groups in zip(folder.optims, partitions, strict=True):
        read = [_flat(folder, file, value) for value in groups]
        flats.append(_Flat(_one_dtype(folder, read), tuple((content, numel) for _, content, numel in read)))
    need = sum(-(-math.prod(s) // folder.world) for shapes in folder.groups for s in shapes.values())
    if any(need > f.numel for f in flats) or len({f.dtype for f in flats}) != 1:
        raise RepairError(
            folder.path, f"a process has {min(f.numel for f in flats):,} values for {need:,} of its parts"
        )
    at = 0
    for number, shapes in enumerate(folder.groups):
        for key, shape in shapes.items():
            count = math.prod(shape)
            part = -(-count // folder.world)
            runs: list[Run] = []
            for rank, flat in enumerate(flats):
                runs += flat.slice(at, max(min(part, count - rank * part), 0))
            yield key, number, shape, _content(runs), flats[0].dtype
            at += part
    if any(f.numel != at for f in flats):
        raise RepairError(folder.path, f"a process has {max(f.numel for f in flats):,} values for {at:,} of its parts")


def _content(runs: list[Run]) -> Stored:
    return Pieces(sum(r.length for r in runs), partial(iter, runs))


def _one_dtype(folder: _Folder, read: Sequence[tuple[str, Stored, int]]) -> str:
    dtypes = {dtype for dtype, _, _ in read}
    if len(dtypes) != 1:
        raise RepairError(folder.path, f"partitions of one group have the types {', '.join(sorted(dtypes))}")
    return dtypes.pop()


def _frozen(folder: _Folder) -> dict[str, Value]:
    """Parameters that are not trained: whole up to stage 2, a part in every process in stage 3."""
    main = folder.models[0]
    out: dict[str, Value] = {}
    for shapes in _shapes(mapping_get(main.root, "frozen_param_shapes")):
        for key, shape in shapes.items():
            read = [
                _flat(folder, file, mapping_get(mapping_get(file.root, "frozen_param_fragments"), key))
                for file in (folder.models if folder.stage == 3 else folder.models[:1])
            ]
            flat = _Flat(_one_dtype(folder, read), tuple((content, numel) for _, content, numel in read))
            out[key] = folder.merged.tensor(flat.dtype, shape, _content(flat.slice(0, math.prod(shape))))
    return out


# ---------------------------------------------------------------- optimizer states


class _NotWhole(Exception):
    """Why the states of the optimizer cannot be had."""


def _optimizer(folder: _Folder) -> Value:
    """The states of the optimizer as torch has them: by parameter, in the order of the parameter groups.

    Raises:
        _NotWhole: They are not laid out like the weights.
    """
    if not folder.optims:
        plain = mapping_get(folder.models[0].root, "optimizer")
        if mapping_pairs(mapping_get(plain, "state")) is None:
            raise _NotWhole("the folder has none")
        return folder.merged.tree(plain, folder.models[0].checkpoint, folder.models[0].path)
    name = "optimizer_state_dict" if folder.stage == 3 else "base_optimizer_state"
    bases = [mapping_get(_state(file), name) for file in folder.optims]
    states = [_numbered(mapping_get(base, "state")) for base in bases]
    options = mapping_get(bases[0], "param_groups")
    masters = _masters(folder)
    if any(s is None for s in states) or not isinstance(options, ListNode):
        raise _NotWhole("they are not kept by group")
    if len(options.items) != len(folder.groups) or any(s is not None and len(s) != len(masters[0]) for s in states):
        raise _NotWhole("they have other groups than the weights")
    by_rank = [s for s in states if s is not None]
    first = folder.optims[0]
    parameters = [(key, n) for n, shapes in enumerate(folder.groups) for key in shapes]
    out: list[DictNode] = [DictNode() for _ in parameters]
    for field_name, sample in mapping_pairs(by_rank[0][0]) or ():
        entries = [[mapping_get(group, str(field_name)) for group in rank] for rank in by_rank]
        if _lies_like(folder, entries, masters):
            try:
                cut = list(_trained(folder, entries))
            except RepairError as error:
                raise _NotWhole(error.reason) from None
            for node, (_, _, shape, content, dtype) in zip(out, cut, strict=True):
                node.pairs.append((field_name, folder.merged.tensor(dtype, shape, content)))
            continue
        del sample
        for node, (_, number) in zip(out, parameters, strict=True):
            # One value for a whole group, as the step: each parameter gets its own, since torch counts them up one by one.
            value = entries[0][min(number, len(entries[0]) - 1)]
            entry = read_tensor(value, first.checkpoint)
            if entry is not None and entry.numel == 1:
                content = values_of(folder.files, entry, first.checkpoint, first.path)
                node.pairs.append((field_name, folder.merged.tensor(entry.dtype, entry.shape, content)))
            elif value is None or isinstance(value, (bool, int, float, str)):
                node.pairs.append((field_name, value))
            else:
                raise _NotWhole(f"{field_name!r} is laid out in another way than the weights")
    return DictNode(
        [
            ("state", DictNode([(i, node) for i, node in enumerate(out)])),
            ("param_groups", ListNode([_options(folder, first, g, n) for n, g in enumerate(options.items)])),
        ]
    )


def _numbered(state: Value) -> list[Value] | None:
    """States by group, in order of their numbers."""
    pairs = mapping_pairs(state)
    if pairs is None or [k for k, _ in pairs] != list(range(len(pairs))):
        return None
    return [v for _, v in pairs]


def _lies_like(folder: _Folder, entries: Sequence[Sequence[Value]], masters: Sequence[Sequence[Value]]) -> bool:
    """Whether something has as many values in every partition as the weights have.

    Up to stage 2 the weights are stored without the padding at the end of their group, and the rest with it.
    """
    for file, here, there in zip(folder.optims, entries, masters, strict=True):
        paddings = mapping_get(_state(file), "group_paddings")
        extra = paddings.items if isinstance(paddings, ListNode) else []
        for number, (value, weight) in enumerate(zip(here, there, strict=True)):
            mine, theirs = read_tensor(value, file.checkpoint), read_tensor(weight, file.checkpoint)
            if mine is None or theirs is None or not mine.shape:
                return False
            if mine.numel - theirs.numel not in (0, extra[number] if number < len(extra) else 0):
                return False
    return True


def _options(folder: _Folder, first: _File, group: Value, number: int) -> Value:
    start = sum(len(shapes) for shapes in folder.groups[:number])
    params = ListNode(list(range(start, start + len(folder.groups[number]))))
    kept: list[tuple[Value, Value]] = [
        (k, params if k == "params" else folder.merged.tree(v, first.checkpoint, first.path))
        for k, v in mapping_pairs(group) or ()
    ]
    return DictNode(kept)

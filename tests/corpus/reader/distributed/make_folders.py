"""Writes the folders beside it: what torch.distributed.checkpoint makes of one state_dict, saved by two processes.

torch 2.13.0 with safetensors 0.8 wrote those that are checked in. ``expected.json`` holds what torch's own readers
give back. Run in an empty environment with torch and safetensors: python make_folders.py
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

HERE = Path(__file__).parent
FILE_OF = {"net.weight": 1, "net.bias": 2, "emb": 2, "half": 1}


def state_dict(integer: bool = True) -> dict[str, torch.Tensor]:
    """Rows and columns that two processes can share, one of them not evenly."""
    torch.manual_seed(0)
    emb = torch.arange(12).reshape(4, 3)
    return {
        "net.weight": torch.randn(5, 4),
        "net.bias": torch.randn(5).double(),
        "emb": emb if integer else emb.float(),
        "half": torch.randn(6, 2).bfloat16(),
    }


def one_process() -> None:
    """The folders that need no process group."""
    writer = dcp.HuggingFaceStorageWriter(str(HERE / "hf_index"), fqn_to_index_mapping=FILE_OF)
    dcp.save(state_dict(), storage_writer=writer, no_dist=True)
    writer = dcp.HuggingFaceStorageWriter(str(HERE / "hf_objects"))
    dcp.save({**state_dict(), "step": 3}, storage_writer=writer, no_dist=True)


def work(rank: int) -> None:
    """One of two processes."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    places = {"net.weight": Shard(0), "net.bias": Replicate(), "emb": Shard(1), "half": Shard(0)}

    def shared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: distribute_tensor(value, mesh, [places[key]]) for key, value in tensors.items()}

    hf = dcp.HuggingFaceStorageWriter
    dcp.save(shared(state_dict()), storage_writer=hf(str(HERE / "hf_pieces"), save_distributed=True))
    dcp.save(
        shared(state_dict(integer=False)),  # 2.13 fails to consolidate integers
        storage_writer=hf(
            str(HERE / "hf_consolidated"),
            fqn_to_index_mapping=FILE_OF,
            save_distributed=True,
            enable_consolidation=True,
        ),
    )
    native = dcp.FileSystemWriter(str(HERE / "native"), serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save(shared(state_dict()), storage_writer=native)
    dist.destroy_process_group()


def expected() -> dict[str, dict[str, list[object]]]:
    """What torch reads: dtype, shape and values by folder and key."""
    out: dict[str, dict[str, list[object]]] = {}
    for name in ("hf_index", "hf_pieces", "hf_consolidated"):
        tensors = {k: torch.zeros_like(v) for k, v in state_dict(integer=name != "hf_consolidated").items()}
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(HERE / name)), no_dist=True)
        out[name] = {
            k: [str(v.dtype).removeprefix("torch."), list(v.shape), v.double().flatten().tolist()]
            for k, v in tensors.items()
        }
    return out


if __name__ == "__main__":
    for old in HERE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    one_process()
    mp.spawn(work, nprocs=2)
    (HERE / "expected.json").write_text(json.dumps(expected()) + "\n")

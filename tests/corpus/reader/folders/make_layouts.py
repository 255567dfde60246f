"""Writes the folders ``fsdp2``, ``fsdp_lightning_2_2`` and ``fsdp_torch_2_0`` here: what two processes of FSDP leave.

Each part needs an environment of its own: ``python make_layouts.py NAME``. Those that are checked in were written by torch
2.13.0, by torch 2.2.2 with the fabric of Lightning 2.2, and by torch 2.0.1. ``folders.json`` gets what the frameworks themselves
say are the whole weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

HERE = Path(__file__).parent
META = {"epoch": 2, "global_step": 3, "pytorch-lightning_version": "2.2.5", "loops": {"fit_loop": {"state_dict": {}}}}


def model() -> nn.Module:
    """Sizes that two processes cannot share evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7))


def trained(wrapped: nn.Module, rank: int) -> torch.optim.Optimizer:
    """Three steps with momentum."""
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(5 + rank)
    for _ in range(3):
        wrapped(torch.randn(8, 5)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def fsdp2(rank: int, folder: Path) -> dict[str, torch.Tensor]:
    """FSDP2, under the keys that Lightning's strategies use."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    net = model()
    fully_shard(net, mesh=mesh)
    optimizer = trained(net, rank)
    state = {"model": get_model_state_dict(net), "optimizer_0": get_optimizer_state_dict(net, optimizer)}
    dcp.save(state, checkpoint_id=folder)
    return {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in net.state_dict().items()}


def fsdp1(rank: int, folder: Path) -> dict[str, torch.Tensor]:
    """FSDP1 with sharded states, as Lightning 2.2 saves them."""
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    net = FullyShardedDataParallel(
        model(), auto_wrap_policy=ModuleWrapPolicy({nn.Linear}), use_orig_params=True, device_id=torch.device("cpu")
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    torch.cuda.memory_summary = lambda: ""  # asked for a line of a log
    torch.cuda.synchronize = lambda: None
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)  # gloo of these versions does not reduce and scatter
    optimizer.step()
    with FullyShardedDataParallel.state_dict_type(net, StateDictType.SHARDED_STATE_DICT):
        state = {"model": net.state_dict(), "optimizer_0": FullyShardedDataParallel.optim_state_dict(net, optimizer)}
    from lightning_fabric.strategies.fsdp import _distributed_checkpoint_save

    _distributed_checkpoint_save(state, folder)
    dist.barrier()
    from torch.distributed.checkpoint import FileSystemReader, load_state_dict

    whole = {"model": {k: torch.zeros_like(v) for k, v in model().state_dict().items()}}
    load_state_dict(whole, FileSystemReader(folder), no_dist=True)
    return whole["model"]


def sharded(rank: int, folder: Path) -> dict[str, torch.Tensor]:
    """What FSDP1 of torch 2.0 gives for sharded states, by hand, since it wants a GPU; saved as Lightning 2.0 does."""
    from torch.distributed._shard.sharded_tensor import Shard, init_from_local_shards
    from torch.distributed.checkpoint import FileSystemWriter, save_state_dict

    torch.manual_seed(0)
    whole = {"net.weight": torch.randn(7, 5), "net.bias": torch.randn(7).bfloat16()}
    rows = slice(0, 4) if rank == 0 else slice(4, 7)

    def part(tensor: torch.Tensor) -> object:
        offsets = [rows.start, *[0] * (tensor.dim() - 1)]
        shard = Shard.from_tensor_and_offsets(tensor[rows].clone(), offsets, rank)
        return init_from_local_shards([shard], *tensor.shape)

    state = {
        "model": {k: part(v) for k, v in whole.items()},
        "optimizer_0": {
            "state": {k: {"exp_avg": part(v * 2), "step": torch.tensor(3.0)} for k, v in whole.items()},
            "param_groups": [{"lr": 0.1, "params": list(whole)}],
        },
    }
    save_state_dict(state, FileSystemWriter(folder, single_file_per_rank=True))
    return whole


def work(rank: int, name: str) -> None:
    """One of two processes."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29518", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    folder = HERE / name
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    dist.barrier()
    whole = {"fsdp2": fsdp2, "fsdp_lightning_2_2": fsdp1, "fsdp_torch_2_0": sharded}[name](rank, folder)
    dist.barrier()
    if rank == 0:
        torch.save(META, folder / "meta.pt")
        known = json.loads((HERE.parent / "folders.json").read_text())
        known[name] = {
            k: {
                "dtype": str(v.dtype).removeprefix("torch."),
                "shape": list(v.shape),
                "sha256": hashlib.sha256(
                    v.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                ).hexdigest()[:16],
            }
            for k, v in whole.items()
        }
        (HERE.parent / "folders.json").write_text(json.dumps(known, separators=(",", ":"), sort_keys=True) + "\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    mp.spawn(work, args=(sys.argv[1],), nprocs=2)

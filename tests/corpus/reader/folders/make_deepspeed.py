"""Writes the folders ``deepspeed_VERSION_ZERO_KIND`` here: what two processes of DeepSpeed leave, on a processor.

Frozen parameters, one parameter under two names, two groups of parameters, a buffer. ``python make_deepspeed.py ZERO KIND``,
with KIND one of fp32, bf16, bf16_optimizer. Those that are checked in were written by deepspeed 0.16.9 under torch 2.2.2,
the one of BF16_Optimizer under torch 2.13. ``folders.json`` gets what DeepSpeed's own ``zero_to_fp32`` makes of them, where
it takes them.
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


class Net(nn.Module):
    """Sizes that two processes cannot share evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.frozen, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 5), nn.Linear(5, 7)
        self.frozen.requires_grad_(False)
        self.c.weight = self.a.weight
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One number."""
        return (self.c(self.b(self.frozen(self.a(x).relu()))) * self.scale).float().pow(2).mean()


def work(rank: int, stage: int, kind: str) -> None:
    """One of two processes."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29519", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)
    )
    import deepspeed
    import deepspeed.comm.torch

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo")
    net = Net()
    trained = [(k, p) for k, p in net.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for k, p in trained if k.endswith("weight")]},
        {"params": [p for k, p in trained if k.endswith("bias")], "weight_decay": 0.0},
    ]
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "reduce_scatter": False, "overlap_comm": False},
    }
    if kind != "fp32":
        config["bf16"] = {"enabled": True}
    if kind == "bf16_optimizer":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    engine, _, _, _ = deepspeed.initialize(
        model=net, model_parameters=groups, optimizer=torch.optim.Adam(groups, lr=0.01), config=config,
        dist_init_required=False,
    )  # fmt: skip
    torch.manual_seed(5 + rank)
    for _ in range(3):
        x = torch.randn(8, 5)
        loss = engine(x if kind == "fp32" else x.bfloat16())
        engine.backward(loss)
        engine.step()
    version = deepspeed.__version__.strip()
    name = f"deepspeed_{version.replace('.', '_')}_zero{stage}_{kind}"
    if rank == 0:
        shutil.rmtree(HERE / name, ignore_errors=True)
    dist.barrier()
    engine.save_checkpoint(str(HERE / name), client_state={"epoch": 2, "global_step": 3}, tag="checkpoint")
    dist.barrier()
    if rank == 0:
        for script in (HERE / name).rglob("*.py"):
            script.unlink()
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        try:
            whole = get_fp32_state_dict_from_zero_checkpoint(str(HERE / name), "checkpoint")
        except ValueError as error:
            print(name, "zero_to_fp32:", error)
            return
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    mp.spawn(work, args=(int(sys.argv[1]), sys.argv[2]), nprocs=2)

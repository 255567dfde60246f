"""What one file of a folder of shards costs, beside the converters of torch, Lightning and DeepSpeed: peak memory and time.

Whole processes, whose peak is compared with the size of the folder. The folders are written here: one by
torch.distributed.checkpoint, in several files; one as DeepSpeed ZeRO 3 lays out the weights of two processes, written with
torch.save, since DeepSpeed itself needs a launcher. DeepSpeed's own converter reads it too, and is measured where deepspeed
is installed.

Run: ``python benchmarks/consolidate_cost.py [--folder FOLDER] [--gigabytes N]``. Needs torch and Lightning, and room for
four times N.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fix_cost import measured

DCP = """
import sys, torch, torch.distributed.checkpoint as dcp
folder, count = sys.argv[1], int(sys.argv[2])
state = {f"layers.{i}.weight": torch.randn(1024, 1024) for i in range(count)}
writer = dcp.FileSystemWriter(folder, single_file_per_rank=False, thread_count=4)
dcp.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.6.6"}, storage_writer=writer, no_dist=True)
"""
ZERO3 = """
import sys, os, torch
from collections import OrderedDict
folder, count = sys.argv[1], int(sys.argv[2])
os.makedirs(folder + "/checkpoint")
open(folder + "/latest", "w").write("checkpoint")
names = [f"layers.{i}.weight" for i in range(count)]
shapes = [OrderedDict((n, torch.Size((1024, 1024))) for n in names)]
for rank in range(2):
    where = f"{folder}/checkpoint/zero_pp_rank_{rank}_mp_rank_00_"
    torch.save({"module": OrderedDict((n, torch.empty(0)) for n in names), "buffer_names": [], "param_shapes": shapes,
                "frozen_param_shapes": {}, "shared_params": {}, "frozen_param_fragments": {}, "ds_version": "0.16.9",
                "ds_config": {"zero_optimization": {"stage": 3}}, "epoch": 3}, where + "model_states.pt")
    flat = torch.randn(count * 1024 * 1024 // 2)
    torch.save({"optimizer_state_dict": {"zero_stage": 3, "partition_count": 2, "fp32_flat_groups": [flat]}},
               where + "optim_states.pt")
"""
RELIGHT = "import sys, relight; relight.convert(sys.argv[1], sys.argv[2])"
TORCH = """
import sys
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
dcp_to_torch_save(sys.argv[1], sys.argv[2])
"""
LIGHTNING = """
import sys, torch
from pathlib import Path
from lightning.fabric.utilities.load import _load_distributed_checkpoint
torch.save(_load_distributed_checkpoint(Path(sys.argv[1])), sys.argv[2])
"""
DEEPSPEED = """
import sys, torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
torch.save(get_fp32_state_dict_from_zero_checkpoint(sys.argv[1]), sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the folders are made; default: a temporary one")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    arguments = parser.parse_args()
    count = int(arguments.gigabytes * 256)
    cases = {
        "torch.distributed.checkpoint": (DCP, {"relight": RELIGHT, "torch": TORCH, "Lightning": LIGHTNING}),
        "DeepSpeed ZeRO 3": (ZERO3, {"relight": RELIGHT, "DeepSpeed": DEEPSPEED}),
    }
    if importlib.util.find_spec("deepspeed") is None:
        cases["DeepSpeed ZeRO 3"][1].pop("DeepSpeed")
        print("deepspeed is not installed: its converter is not measured")
    print(f"{'folder':30} {'converter':10} {'size':>9} {'wall':>8} {'CPU':>8} {'peak':>10}")
    for name, (program, converters) in cases.items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            folder, output = f"{scratch}/folder", f"{scratch}/one.ckpt"
            subprocess.run([sys.executable, "-W", "ignore", "-c", program, folder, str(count)], check=True)
            size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
            for who, text in converters.items():
                wall, cpu, peak = measured([sys.executable, "-W", "ignore", "-c", text, folder, output])
                print(f"{name:30} {who:10} {size >> 20:5} MiB {wall:6.1f} s {cpu:6.1f} s {peak:6.0f} MiB", flush=True)
                os.unlink(output)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

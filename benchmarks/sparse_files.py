"""Large checkpoints that take no room: the program that writes them, for a process of its own that has torch.

Sparse: only the pages that are read exist. The folder is the program's first argument; a benchmark may write more files
behind it, with ``write``.
"""

from __future__ import annotations

CHECKPOINTS = """
import sys, torch
folder = sys.argv[1]
def write(name, state, **more):
    torch.save({"pytorch-lightning_version": "2.6.6", "epoch": 3, "global_step": 100, **more, "state_dict": state},
               f"{folder}/{name}.ckpt")
def layers(count, width, rows):
    state = {}
    for i in range(count):
        state[f"layers.{i}.weight"] = torch.empty(rows, width)
        state[f"layers.{i}.bias"] = torch.empty(width)
    return state
with torch.serialization.skip_data():
    write("1GB", layers(151, 1024, 1730))
    state = layers(200, 1024, 2090)
    adam = {i: {"step": torch.tensor(1.0), "exp_avg": torch.empty_like(t), "exp_avg_sq": torch.empty_like(t)}
            for i, t in enumerate(state.values())}
    write("5GB", state, optimizer_states=[{"state": adam, "param_groups": [{"params": list(adam)}]}])
"""

"""What `relight inspect` costs beside `import torch`: whole processes, interleaved, CPU seconds and peak memory.

It makes a 1 GB checkpoint (302 tensors) in a temporary folder, as a sparse file: only the pages that are read exist.
Ratios are medians of pairs measured one after the other in this run, so a busy machine slows both sides.

    python benchmarks/inspect_cost.py [--runs N]

Targets: inspect at most 1/10 of the CPU of `import torch` as text, 1/15 as JSON, and at most 60 MiB of memory.
Exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = """
import sys, torch
path, count = sys.argv[1], 302
layers = torch.nn.ModuleDict({f"layer{i}": torch.nn.Linear(1, 1) for i in range(count // 2)})
n = 1_080_000_000 // 4 // (count // 2) // 1024
with torch.serialization.skip_data():
    state = {}
    for i in range(count // 2):
        state[f"layer{i}.weight"] = torch.empty(n, 1024)
        state[f"layer{i}.bias"] = torch.empty(1024)
    torch.save({"pytorch-lightning_version": "2.6.6", "epoch": 3, "global_step": 100, "state_dict": state}, path)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """(CPU seconds, peak MiB) of one whole process, its children included."""
    # Bytecode is cached as for any installed package: the warm-up round writes it, whatever this shell says.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    pid = os.spawnvpe(os.P_NOWAIT, "/bin/sh", ["sh", "-c", 'exec "$@" > /dev/null', "sh", *command], environment)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="interleaved rounds after one warm-up")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.ckpt"
        subprocess.run([sys.executable, "-c", MAKE, str(path)], check=True)
        relight = str(Path(sys.executable).with_name("relight"))
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "bare python": [sys.executable, "-c", "pass"],
            "inspect, text": [relight, "inspect", str(path)],
            "inspect, JSON": [relight, "inspect", "--format", "json", str(path)],
        }
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for i in range(args.runs + 1):
            for name, command in commands.items():
                figure = measure(command)
                if i:
                    rows[name].append(figure)
        size = path.stat().st_size
    print(f"{size / 1e9:.2f} GB file, {args.runs} interleaved runs, medians; ratio: CPU of import torch / CPU")
    print(f"{'command':16} {'CPU s':>8} {'peak MiB':>9} {'ratio':>7}")
    ratios, memory = {}, {}
    for name, figures in rows.items():
        pairs = [t[0] / f[0] for t, f in zip(rows["import torch"], figures, strict=True)]
        ratios[name], memory[name] = statistics.median(pairs), max(f[1] for f in figures)
        print(f"{name:16} {statistics.median(f[0] for f in figures):8.3f} {memory[name]:9.1f} {ratios[name]:6.1f}x")
    missed = [
        text
        for text, good in (
            ("text at most 1/10", ratios["inspect, text"] >= 10),
            ("JSON at most 1/15", ratios["inspect, JSON"] >= 15),
            ("text at most 60 MiB", memory["inspect, text"] <= 60),
            ("JSON at most 60 MiB", memory["inspect, JSON"] <= 60),
        )
        if not good
    ]
    print(f"missed: {', '.join(missed)}" if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

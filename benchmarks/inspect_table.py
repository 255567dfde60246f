"""`relight inspect` beside what else reads a checkpoint's description: one table, one run, whole processes.

    python benchmarks/inspect_table.py [--runs N] [--quick]

Files (made in a temporary folder, the large ones sparse: only the pages that are read exist): 10 KB, 1 GB, 5 GB with an
optimizer's state, 100,000 tensors, and a pickle of a million entries. Others: ``import torch`` alone, torch.load in
full and with ``mmap=True``, torch's own static lister (``get_unsafe_globals_in_checkpoint``), and the public scanners
picklescan and fickling where they are installed (``pip install picklescan fickling``).

CPU seconds are medians, memory is the highest seen; ``x`` is the CPU of ``import torch`` over that of the command,
measured in the same rounds. torch.load in full is left out for the files that would fill the memory.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_cost import measure
from sparse_files import CHECKPOINTS

MAKE = (
    CHECKPOINTS
    + """
write("10KB", {"net.0.weight": torch.zeros(16, 8), "net.0.bias": torch.zeros(16)})
write("100k", {f"blocks.{i}.w": torch.zeros(4) for i in range(100_000)})
torch.save({"numbers": {f"k{i}": i for i in range(1_000_000)}}, f"{folder}/1M.ckpt")
"""
)

LOAD = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True{})"
LISTER = "import sys, torch; torch.serialization.get_unsafe_globals_in_checkpoint(sys.argv[1])"
TOO_LARGE = {("5GB", "torch.load")}  # five gigabytes of memory for a description


def commands(path: str) -> dict[str, list[str]]:
    """What is measured on one file, by name."""
    python, scripts = sys.executable, Path(sys.executable).parent
    out = {
        "relight, text": [str(scripts / "relight"), "inspect", path],
        "relight, JSON": [str(scripts / "relight"), "inspect", "--format", "json", path],
        "torch.load(mmap)": [python, "-c", LOAD.format(", mmap=True"), path],
        "torch.load": [python, "-c", LOAD.format(""), path],
        "torch's lister": [python, "-c", LISTER, path],
    }
    if (scripts / "picklescan").exists():
        out["picklescan"] = [str(scripts / "picklescan"), "-p", path]
    if (scripts / "fickling").exists():
        out["fickling"] = [
            python,
            "-c",
            "import sys, zipfile\nfrom fickling.fickle import Pickled\n"
            "z = zipfile.ZipFile(sys.argv[1])\n"
            "Pickled.load(z.read(next(n for n in z.namelist() if n.endswith('data.pkl'))))",
            path,
        ]
    return out


def attempt(command: list[str]) -> tuple[float, float] | None:
    """A measurement, or None where the command fails on that file."""
    try:
        return measure(command)
    except SystemExit:
        return None


def main() -> int:
    """Measure and print a table per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="interleaved rounds after one warm-up")
    parser.add_argument("--quick", action="store_true", help="only relight and import torch")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="relight-bench-")
    try:
        subprocess.run([sys.executable, "-c", MAKE, folder], check=True)
        for name in ("10KB", "1GB", "5GB", "100k", "1M"):
            path = Path(folder) / f"{name}.ckpt"
            todo = {"import torch": [sys.executable, "-c", "import torch"], **commands(str(path))}
            if args.quick:
                todo = {k: v for k, v in todo.items() if k.startswith(("import", "relight"))}
            todo = {k: v for k, v in todo.items() if (name, k) not in TOO_LARGE}
            rows: dict[str, list[tuple[float, float]]] = {k: [] for k in todo}
            failed: set[str] = set()
            for i in range(args.runs + 1):
                for key, command in todo.items():
                    figure = None if key in failed else attempt(command)
                    if figure is None:
                        failed.add(key)
                    elif i:
                        rows[key].append(figure)
            print(f"\n{name}: {path.stat().st_size / 1e6:,.2f} MB on paper")
            for key, figures in rows.items():
                if key in failed:
                    print(f"  {key:18} fails on this file")
                    continue
                ratio = statistics.median(t[0] / f[0] for t, f in zip(rows["import torch"], figures, strict=True))
                cpu = statistics.median(f[0] for f in figures)
                print(f"  {key:18} {cpu:8.3f} s {max(f[1] for f in figures):9.1f} MiB {ratio:7.2f}x")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What renaming every key of a large checkpoint costs, beside `cp` and beside torch: load, rename, save.

The files are sparse, as `sparse_files` makes them: they take no room, and copies of them take none either where the tool
keeps holes. `cp` does by default; torch writes every byte. They record no checksums either, so relight reads every byte
once for them. ``--whole`` writes them out first, with checksums, as a training does, for a disk that has the room.

Run: ``python benchmarks/fix_cost.py [--folder FOLDER] [--runs N] [--whole] [--sizes 1GB,5GB]``. Needs torch. Each row is a
whole process; rows of one file run in turn, and the ratio is that of medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from sparse_files import CHECKPOINTS

RELIGHT = """
import sys
import relight
from relight.core.edits import Plan, RenameKeys
from relight.repair.rewriter import digest_of, rewrite
source, copy = sys.argv[1:]
pairs = tuple((t.key, "model." + t.key) for t in relight.inspect(source).tensors)
rewrite(Plan(source=source, digest=digest_of(source), edits=(RenameKeys(pairs),)), source, copy)
"""
TORCH = """
import sys, torch
source, copy = sys.argv[1:]
checkpoint = torch.load(source, weights_only=True{mmap})
checkpoint["state_dict"] = {{"model." + k: v for k, v in checkpoint["state_dict"].items()}}
torch.save(checkpoint, copy)
"""


def rows(source: str, copy: str) -> dict[str, list[str]]:
    python = sys.executable
    return {
        "cp": ["cp", source, copy],
        "cp, then sync, as relight does": ["sh", "-c", 'cp "$0" "$1" && sync "$1"', source, copy],
        "relight: new file": [python, "-c", RELIGHT, source, copy],
        "torch: mmap, rename, save": [python, "-c", TORCH.format(mmap=", mmap=True"), source, copy],
        "torch: load, rename, save": [python, "-c", TORCH.format(mmap=""), source, copy],
    }


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall and processor seconds, and the peak of memory in MiB, of a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        start = time.perf_counter()
        status = subprocess.call(command)
        wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.write(write, f"{status} {wall} {used.ru_utime + used.ru_stime} {used.ru_maxrss / 1024}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        status, wall, cpu, peak = answer.read().split()
    os.waitpid(child, 0)
    if status != "0":
        raise SystemExit(f"{command[0]} ended with status {status}")
    return float(wall), float(cpu), float(peak)


FILL = "import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[2])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the files are made, or are already; default: a temporary one")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", default="1GB,5GB")
    parser.add_argument("--whole", action="store_true", help="files without holes: takes three times their size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        made = scratch
        if arguments.folder and all(os.path.exists(f"{arguments.folder}/{s}.ckpt") for s in arguments.sizes.split(",")):
            made = arguments.folder
        else:
            subprocess.run([sys.executable, "-c", CHECKPOINTS, scratch], check=True)
        for size in arguments.sizes.split(","):
            source = f"{made}/{size}.ckpt"
            if arguments.whole:
                whole = f"{scratch}/{size}.whole.ckpt"
                subprocess.run([sys.executable, "-c", FILL, source, whole], check=True)
                source = whole
            copy = f"{scratch}/copy.ckpt"
            results: dict[str, list[tuple[float, float, float]]] = {}
            for _ in range(arguments.runs):
                for name, command in rows(source, copy).items():
                    results.setdefault(name, []).append(measured(command))
                    os.unlink(copy)
            base = [statistics.median(r[i] for r in results["cp"]) for i in (0, 1)]
            print(
                f"{size}: {os.path.getsize(source):,} bytes{'' if arguments.whole else ', sparse'}, n={arguments.runs}"
            )
            for name, runs in results.items():
                wall, cpu, peak = (statistics.median(r[i] for r in runs) for i in range(3))
                print(
                    f"  {name:32} wall {wall:8.2f} s ({wall / base[0]:6.2f}x)  CPU {cpu:7.2f} s ({cpu / base[1]:6.2f}x)"
                    f"  peak {peak:7.0f} MiB"
                )


if __name__ == "__main__":
    main()

"""What renaming every key of a large checkpoint costs, beside `cp` and beside torch: load, rename, save.

`cp` leaves its bytes to the system; relight waits until the disk has them, as a new file must be before it gets its name.
So `cp` followed by a sync is the limit for it, and both are shown. The proof (every byte of the copy read again) is timed
with the rewrite and without; what the child does that really loads the copy is a row of its own.

With ``--whole`` the files are as a training writes them, with checksums: it takes three times their size on the disk.
Without, they are sparse, as `sparse_files` makes them, and take no room; `cp` then keeps the holes, torch writes every
byte, and relight reads every byte once for the checksums that such files do not record.

Run: ``python benchmarks/fix_cost.py [--folder FOLDER] [--runs N] [--whole] [--sizes 1GB,5GB]``. Needs torch. Each row is a
whole process; rows of one file run in turn, and a ratio is the median of the ratios to the `cp` of the same turn.
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
from relight.repair import proof
from relight.repair.rewriter import digest_of, rewrite
source, copy, how = sys.argv[1:]
found = relight.inspect(source)
pairs = tuple((t.key, "model." + t.key) for t in found.tensors)
plan = Plan(source=source, digest=digest_of(source), edits=(RenameKeys(pairs),))
def prove(written):
    checks = proof.compared(written, source, whole=how == "bytes")
    assert all(ok for _, ok, _ in checks), checks
rewrite(plan, source, copy, checkpoint=found, prove=None if how == "nothing" else prove)
"""
TORCH = """
import sys, torch
source, copy = sys.argv[1:]
checkpoint = torch.load(source, weights_only=True{mmap})
checkpoint["state_dict"] = {{"model." + k: v for k, v in checkpoint["state_dict"].items()}}
torch.save(checkpoint, copy)
"""
LOAD = """
import sys, torch
source, copy = sys.argv[1:]
torch.load(source, weights_only=True)
open(copy, "w").close()
"""


SYNCED = "cp, then sync, as relight does"


def rows(source: str, copy: str) -> dict[str, list[str]]:
    python = sys.executable
    return {
        "cp": ["cp", source, copy],
        SYNCED: ["sh", "-c", 'cp "$0" "$1" && sync "$1"', source, copy],
        "relight: new file": [python, "-c", RELIGHT, source, copy, "nothing"],
        "relight: new file, and its proof": [python, "-c", RELIGHT, source, copy, "checksums"],
        "relight: new file, --prove bytes": [python, "-c", RELIGHT, source, copy, "bytes"],
        "torch: load, as the child does": [python, "-c", LOAD, source, copy],
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


FILL = """
import sys, torch
checkpoint = torch.load(sys.argv[1], weights_only=True)
some = torch.randn(1 << 20)  # no zeros: a disk may take them for nothing
for tensor in {t.data_ptr(): t for t in checkpoint["state_dict"].values()}.values():
    for part in tensor.view(-1).split(len(some)):
        part.copy_(some[: len(part)])
torch.save(checkpoint, sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the files are made, or are already; default: a temporary one")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", default="1GB,5GB")
    parser.add_argument("--rows", default="", help="only rows that begin so, besides cp: relight, torch")
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
                    if not name.startswith(("cp", arguments.rows)):
                        continue
                    results.setdefault(name, []).append(measured(command))
                    os.unlink(copy)
            print(
                f"{size}: {os.path.getsize(source):,} bytes{'' if arguments.whole else ', sparse'}, n={arguments.runs}"
            )
            for name, runs in results.items():
                wall, cpu, peak = (statistics.median(r[i] for r in runs) for i in range(3))
                shown = []
                for base in ("cp", SYNCED):
                    ratios = [r[0] / b[0] for r, b in zip(runs, results[base], strict=True)]
                    shown.append(f"{statistics.median(ratios):6.2f}x {'cp' if base == 'cp' else 'cp+sync'}")
                print(f"  {name:34} wall {wall:7.2f} s {' '.join(shown)}  CPU {cpu:6.2f} s  peak {peak:6.0f} MiB")


if __name__ == "__main__":
    main()

"""What renaming every key in place and converting to safetensors cost, beside `cp`: whole processes, proof included.

The files are whole, with checksums, as a training writes them: no holes that a copy could leave out. `cp` is measured
with `sync` as well, since relight gives a file its name only once it is on the disk. Reading the new file again and
comparing it is part of what is measured; ``--prove`` of convert says how.

Run: ``python benchmarks/convert_cost.py [--folder FOLDER] [--sizes 1GB:5,5GB:3]``. Needs torch, and room for three times
the largest file. Rows of one file run in turn; the ratio is that of medians. Where isal is installed (the extra ``fast``),
it computes the checksums; the first line of each size says which does. Compiled modules are to be there already
(``python -m compileall src``): else the start of each process is measured with their compilation.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile

from fix_cost import measured
from sparse_files import CHECKPOINTS

IN_PLACE = """
import sys
import relight
from relight.core.edits import Plan, RenameKeys
from relight.repair.in_place import rewrite_in_place
from relight.repair.rewriter import digest_of
path = sys.argv[1]
before = relight.inspect(path)
pairs = tuple((t.key, "model." + t.key) for t in before.tensors)
plan = Plan(source=path, digest=digest_of(path, before), edits=(RenameKeys(pairs),))
def prove(written, checks):  # what the comparison found: that is a part of writing in place
    assert len(checks) == 4 and all(holds for _, holds, _ in checks)
rewrite_in_place(plan, path, before, prove)
"""
CONVERT = "import sys, relight; relight.convert(sys.argv[1], sys.argv[2], rest={rest})"
UNDO = "import sys, relight; relight.undo(sys.argv[1])"
FILL = "import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=True, mmap=True), sys.argv[2])"


def rows(source: str, scratch: str) -> dict[str, list[str]]:
    copy, weights = f"{scratch}/copy.ckpt", f"{scratch}/w.safetensors"
    return {
        "python, and nothing else": [sys.executable, "-c", "pass"],
        "cp": ["cp", source, copy],
        "cp, then sync, as relight does": ["sh", "-c", 'cp "$0" "$1" && sync "$1"', source, copy],
        "relight: in place": [sys.executable, "-c", IN_PLACE, source],
        "relight: to safetensors, with the rest": [sys.executable, "-c", CONVERT.format(rest=True), source, weights],
        "relight: to safetensors, weights alone": [sys.executable, "-c", CONVERT.format(rest=False), source, weights],
    }


def clean(name: str, source: str, scratch: str) -> None:
    if name == "relight: in place":
        subprocess.run([sys.executable, "-c", UNDO, source], check=True)
    for left in ("copy.ckpt", "w.safetensors", "w.rest.json", "w.rest.safetensors"):
        if os.path.exists(f"{scratch}/{left}"):
            os.unlink(f"{scratch}/{left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the files are made; default: a temporary one")
    parser.add_argument("--sizes", default="1GB:5,5GB:3", help="sizes, each with the number of runs")
    arguments = parser.parse_args()
    how = "checksums by isal" if importlib.util.find_spec("isal") else "checksums by zlib"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        subprocess.run([sys.executable, "-c", CHECKPOINTS, scratch], check=True)
        for size, runs in (s.split(":") for s in arguments.sizes.split(",")):
            source = f"{scratch}/{size}.whole.ckpt"
            subprocess.run([sys.executable, "-c", FILL, f"{scratch}/{size}.ckpt", source], check=True)
            os.sync()
            results: dict[str, list[tuple[float, float, float]]] = {}
            for _ in range(int(runs)):
                for name, command in rows(source, scratch).items():
                    results.setdefault(name, []).append(measured(command))
                    clean(name, source, scratch)
                    os.sync()  # what one row wrote is not for the next to wait for
            plain, synced = (
                [statistics.median(r[i] for r in results[name]) for i in (0, 1)]
                for name in ("cp", "cp, then sync, as relight does")
            )
            load = os.getloadavg()[0]
            print(f"{size}: {os.path.getsize(source):,} bytes, n={runs}, load {load:.1f}, {how}")
            for name, measures in results.items():
                wall, cpu, peak = (statistics.median(r[i] for r in measures) for i in range(3))
                print(
                    f"  {name:40} wall {wall:7.2f} s ({wall / plain[0]:5.2f}x cp, {wall / synced[0]:5.2f}x with sync)"
                    f"  CPU {cpu:6.2f} s ({cpu / plain[1]:5.2f}x)  peak {peak:5.0f} MiB"
                )
            os.unlink(source)


if __name__ == "__main__":
    main()

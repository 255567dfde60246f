"""Compare what relight reads with what is known of every file of a corpus: ``python check_corpus.py CORPUS``.

Reads all files and folders below ``CORPUS/checkpoints`` that have a JSON beside them, prints how often they agree, by
class of disagreement, and exits with 1 if anything is read otherwise. torch is not imported.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import corpus_facts

from relight.facts.producer import PACKAGES
from relight.reader import open_checkpoint

_KINDS = ("layout", "size", "records", "protocol", "problem", "globals", "devices", "keys", "dtype", "shape",
          "kind of tensor", "values", "tree", "counter", "version")  # fmt: skip
_PRECISION = ("exact", "both sides", "one side", "unknown")


def main() -> int:
    """Compare, print, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--show", type=int, default=5, help="how many disagreements of a class are shown")
    options = parser.parse_args()
    began = time.perf_counter()
    found: dict[str, list[tuple[Path, corpus_facts.Disagreement]]] = {kind: [] for kind in _KINDS}
    files: Counter[str] = Counter()
    precision: Counter[tuple[str, str]] = Counter()
    for path, truth in corpus_facts.sidecars(options.corpus / "checkpoints"):
        files["folders" if path.is_dir() else "files"] += 1
        for each in corpus_facts.compare(path, truth):
            found.setdefault(each.kind, []).append((path, each))
        precision.update(corpus_facts.precision(open_checkpoint(path)).items())
    if not files:
        print(f"there is no checkpoint with a JSON beside it below {options.corpus / 'checkpoints'}")
        return 2
    for kind, bad in found.items():
        print(f"{kind:<16} {len(bad):>6} disagreements in {len({path for path, _ in bad})} files")
        for path, each in bad[: options.show]:
            print(f"    {path.relative_to(options.corpus)}: {each.where}: {each.told!r}, should be {each.truth!r}")
    print(f"{'versions told':<16}" + "".join(f"{how:>12}" for how in _PRECISION))
    for package in PACKAGES:
        print(f"  {package:<14}" + "".join(f"{precision[package, how]:>12}" for how in _PRECISION))
    wrong = len({path for bad in found.values() for path, _ in bad})
    total = sum(files.values())
    seconds = time.perf_counter() - began
    print(f"{total - wrong} of {total} agree ({files['files']} files, {files['folders']} folders), {seconds:.1f} s")
    if "torch" in sys.modules:
        print("torch was imported")
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

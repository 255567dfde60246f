"""How well the key mapper finds the truth: figures over folders of cases, in three orders of the source.

    python benchmarks/keymap_score.py [FOLDER ...] [--per-case]

A case is a JSON file as ``benchmarks/keymap/README.md`` describes it; without a folder the bundled ones are taken.

mean F1: pairs (target key, source key), per case, averaged; fully right: every target with the right sources and op;
wrong: targets with a wrong source among those with any, averaged over cases; wrong certain: the same, pooled, among the
pairs called certain; rules: how many regenerate the pairs, and how much of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.learning import learn
from relight.facts.mapper.mapping import map_keys
from relight.facts.mapper.pairs import KeyMap
from relight.facts.mapper.rules import apply

BUNDLED = Path(__file__).parent / "keymap" / "cases"
ORDERS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "as stored": lambda tensors: tensors,
    "alphabetical": sorted,
    "random": lambda tensors: random.Random(1).sample(tensors, len(tensors)),
}


@dataclass(frozen=True)
class Score:
    """Figures of one case.

    Attributes:
        name: Its id.
        f1: Of pairs (target key, source key).
        full: Whether every target is right, op included.
        assigned: Targets that were given a source.
        wrong: Those that were given a wrong one.
        certain: Pairs called certain.
        wrong_certain: Those that are wrong.
        seconds: CPU time of the mapping.
    """

    name: str
    f1: float
    full: bool
    assigned: int
    wrong: int
    certain: int
    wrong_certain: int
    seconds: float


def cases(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The cases of folders, by name."""
    for folder in folders:
        for path in sorted(folder.glob("*.json.gz")):
            yield json.loads(gzip.decompress(path.read_bytes()))


def tensors(listing: Sequence[Sequence[Any]]) -> list[Tensor]:
    """A listing of a case as the mapper takes it."""
    return [Tensor(key, tuple(shape), dtype) for key, shape, dtype in listing]


def score(case: dict[str, Any], found: KeyMap, seconds: float = 0.0) -> Score:
    """Compare a mapping with the truth of its case."""
    hits = given = true = assigned = wrong = certain = wrong_certain = 0
    full = True
    for key, fact in case["truth"].items():
        pair = found.pairs.get(key)
        mine = list(pair.source) if pair else []
        accepted = [fact["from"], *fact.get("alt", [])]
        if fact.get("accept_none") and (not mine or mine in accepted):
            continue
        best = max(accepted, key=lambda a: len(set(a) & set(mine)))
        hits += len(set(best) & set(mine))
        given += len(mine)
        true += len(best)
        right = mine == best
        full = full and right and (not mine or (pair is not None and pair.op == fact["op"]))
        if pair is not None:
            assigned += 1
            wrong += not right
            certain += pair.confidence == "certain"
            wrong_certain += pair.confidence == "certain" and not right
    f1 = 1.0 if given == true == 0 else 2 * hits / (given + true) if given + true else 0.0
    return Score(case["id"], f1, full, assigned, wrong, certain, wrong_certain, seconds)


def run(folders: Sequence[Path], order: str = "as stored") -> list[Score]:
    """Map all cases of folders, with the source in an order."""
    out = []
    for case in cases(folders):
        source, target = ORDERS[order](tensors(case["source"])), tensors(case["target"])
        start = time.process_time()
        found = map_keys(source, target)
        out.append(score(case, found, time.process_time() - start))
    return out


def line(scores: Sequence[Score]) -> str:
    """The figures of many cases."""
    n = len(scores)
    certain = sum(s.certain for s in scores)
    return (
        f"{n} cases: mean F1 {statistics.mean(s.f1 for s in scores):.4f}, "
        f"fully right {sum(s.full for s in scores) / n:.1%}, "
        f"wrong {statistics.mean(s.wrong / s.assigned if s.assigned else 0.0 for s in scores):.2%}, "
        f"wrong certain {sum(s.wrong_certain for s in scores)} of {certain:,}, "
        f"{sum(s.seconds for s in scores):.1f} s of CPU"
    )


def rules_line(folders: Sequence[Path]) -> str:
    """How few rules regenerate how many of the pairs that were found."""
    counts, pairs, again = [], 0, 0
    for case in cases(folders):
        source, target = tensors(case["source"]), tensors(case["target"])
        found = map_keys(source, target)
        if found.pairs:
            keys = [s.key for s in source]
            rules = learn(found.pairs.values(), keys, found.initialised)
            given = apply(rules, keys, [t.key for t in target])
            counts.append(len(rules))
            pairs += len(found.pairs)
            again += sum(given.get(key) == (p.source, p.op) for key, p in found.pairs.items())
    return (
        f"rules: mean {statistics.mean(counts):.1f}, median {statistics.median(counts):.0f}, "
        f"{again / pairs:.2%} of the pairs regenerated"
    )


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[BUNDLED])
    parser.add_argument("--per-case", action="store_true", help="list the cases that are not fully right")
    args = parser.parse_args()
    for order in ORDERS:
        scores = run(args.folders, order)
        print(f"{order:13} {line(scores)}")
        if args.per_case:
            for s in sorted(scores, key=lambda s: s.f1):
                if not s.full:
                    print(f"    {s.name:44} F1 {s.f1:.3f}, {s.wrong} of {s.assigned} wrong")
    print(rules_line(args.folders))
    return 0


if __name__ == "__main__":
    sys.exit(main())

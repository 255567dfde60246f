"""Keys that are the same but for what stands in front, or for how the parts are joined."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from relight.facts.mapper.layers import Layer, Tensor
from relight.facts.mapper.matching import opposed
from relight.facts.mapper.words import stripped, vocabulary, words

_JOINTS = re.compile(r"[._/]")
_TAIL = 8
_SAMPLE = 60
_COVERED = 0.5  # of the target, for a prefix to be the rule rather than a coincidence
_DIGITS = re.compile(r"\d+")
_IN_LIST = re.compile(r"(.+?)\.(\d+)((?:\.\w+)*)\Z")

Prefixes = tuple[str, str]


def plain(key: str) -> str:
    """A key without wrappers and without what joins its parts."""
    return _JOINTS.sub("", stripped(key)).lower()


def by_prefix(source: Sequence[Tensor], target: Sequence[Tensor], layers: Sequence[Layer]) -> dict[str, str]:
    """Source key by target key under one replaced prefix; empty where no prefix explains half of the target.

    Where layers of a family would be left over on both sides, numbers have moved, and equal names mean other layers:
    then nothing is said.

    Args:
        source: Tensors of the checkpoint.
        target: Tensors of the model.
        layers: The layers of the model.
    """
    theirs = {plain(t.key): t for t in target}
    mine = {plain(t.key): t for t in source}
    if len(theirs) < len(target) or len(mine) < len(source):
        return {}
    best: dict[str, str] = {}
    best_cost = (0, 0, 0, "")
    for p, q in _candidates(mine, theirs):
        found = {}
        for name, t in theirs.items():
            if name.startswith(q):
                s = mine.get(p + name[len(q) :])
                if s is not None and s.shape == t.shape:
                    found[t.key] = s.key
        if len(found) < _COVERED * len(target) or _opposed(found):
            continue
        copies = sum(word in p for word in vocabulary().copies)
        cost = (-len(found), copies, len(p), p)
        if not best or cost < best_cost:
            best, best_cost = found, cost
    if not best or _shifted(source, target, best):
        return {}
    moved = moved_lists(source, target)
    if moved:
        best = {t: s for t, s in best.items() if not any(t.startswith(m) for m in moved)}
    return _whole_layers(layers, best)


def _opposed(found: dict[str, str]) -> bool:
    t, s = next(iter(found.items()))
    mine, theirs = ([w for part in key.split(".") for w in words(part)] for key in (s, t))
    return opposed(mine, theirs)


def _whole_layers(target: Sequence[Layer], found: dict[str, str]) -> dict[str, str]:
    """Without the biases and statistics of layers whose weight is not found: they would not fit what they come with."""
    alone: set[str] = set()
    for layer in target:
        weight = layer.leaves.get("weight")
        if weight is not None and weight.key not in found:
            alone.update(t.key for t in layer.leaves.values())
    return {t: s for t, s in found.items() if t not in alone}


def _candidates(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[Prefixes]:
    """Pairs of prefixes that a sample of the target suggests, most frequent first."""
    tails: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, s in mine.items():
        tails[(name[-_TAIL:], s.shape)].append(name)
    votes: Counter[Prefixes] = Counter()
    names = list(theirs)
    for name in names[:: max(len(names) // _SAMPLE, 1)]:
        for other in tails.get((name[-_TAIL:], theirs[name].shape), ())[:400]:
            n = 0
            for a, b in zip(reversed(name), reversed(other), strict=False):
                if a != b:
                    break
                n += 1
            votes[(other[: len(other) - n], name[: len(name) - n])] += 1
    return [pair for pair, _ in votes.most_common(12)]


def _shifted(source: Sequence[Tensor], target: Sequence[Tensor], found: dict[str, str]) -> bool:
    """Whether layers of one family are left over on both sides."""
    used = set(found.values())
    pairs: Counter[tuple[str, str]] = Counter()
    for t, s in found.items():
        pairs[(_DIGITS.sub("#", s), _DIGITS.sub("#", t))] += 1
    mine = {(_DIGITS.sub("#", s.key), s.shape) for s in source if s.key not in used and len(s.shape) > 0}
    theirs = {(_DIGITS.sub("#", t.key), t.shape) for t in target if t.key not in found and len(t.shape) > 0}
    sources = {family for family, _ in mine}
    targets = {family for family, _ in theirs}
    return any(a in sources and b in targets and "#" in a for a, b in pairs)


def moved_lists(source: Sequence[Tensor], target: Sequence[Tensor]) -> set[str]:
    """Modules with a list whose members have moved by their sizes: equal numbers beside it may mean others as well.

    A pyramid that starts one level later has ``inner.0`` with the sizes of the other's ``inner.1``.
    """
    lists: list[dict[str, dict[int, tuple[int, ...]]]] = []
    for side in (source, target):
        found: dict[str, dict[int, tuple[int, ...]]] = defaultdict(dict)
        for t in side:
            match = _IN_LIST.match(t.key) if len(t.shape) > 1 else None
            if match:
                found[f"{match[1]}.#{match[3]}"][int(match[2])] = t.shape
        lists.append(found)
    out = set()
    for name, theirs in lists[1].items():
        mine = lists[0].get(name, {})
        both = mine.keys() & theirs.keys()
        if len(set(theirs.values())) == len(theirs) > 1 and len(mine) != len(theirs) and both:
            same = sum(mine[n] == theirs[n] for n in both)
            by = {m - n for n, shape in theirs.items() for m, other in mine.items() if shape == other}
            if same == 0 and len(by) == 1:
                out.add(name.rpartition(".#")[0].rpartition(".")[0] + ".")
    return out - {"."}

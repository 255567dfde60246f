"""Layers that were wrapped, or unwrapped: one more step in front of the last one, and all else in the name the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from relight.facts.mapper.layers import Tensor


def by_one_step(source: Sequence[Tensor], target: Sequence[Tensor], found: Collection[str]) -> dict[str, str]:
    """Source key by target key, where ``fc.weight`` became ``fc.base.weight``, or the reverse.

    No key has another partner, and a layer goes as a whole or not at all.

    Args:
        source: Tensors of the checkpoint that have no place yet.
        target: Tensors of the model.
        found: Keys of the target that have a source.
    """
    mine = {s.key: s for s in source}
    theirs = {t.key: t for t in target if t.key not in found}
    forward = _wrapped(mine, theirs)
    backward = {t: s for s, t in _wrapped(theirs, mine).items()}
    if not backward or len(forward) > len(backward):
        return forward
    return backward if not forward else {}


def _wrapped(inner: dict[str, Tensor], outer: dict[str, Tensor]) -> dict[str, str]:
    """Key of the inner layer by key of the outer, where the outer one has one step more."""
    partners: dict[str, list[str]] = defaultdict(list)
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for key, tensor in outer.items():
        layer, _, leaf = key.rpartition(".")
        owner, _, _ = layer.rpartition(".")
        other = f"{owner}.{leaf}"
        if owner and other in inner and inner[other].shape == tensor.shape and other not in outer:
            partners[other].append(key)
            layers[layer][key] = other
    out: dict[str, str] = {}
    for layer, pairs in layers.items():
        owner = layer.rpartition(".")[0]
        whole = {k for k in inner if k.rpartition(".")[0] == owner} == set(pairs.values())
        if whole and all(len(partners[other]) == 1 for other in pairs.values()):
            out.update(pairs)
    return out

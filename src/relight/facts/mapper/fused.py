"""Layers that one side keeps apart and the other has as one: queries, keys and values, gate and up."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from relight.facts.mapper.layers import Layer, Tensor, describe
from relight.facts.mapper.matching import size_class

_DIGITS = re.compile(r"(?<![^.])\d+(?![^.])")  # of a list, not of a name: attn1 is no attn2
_NAMES = {("query", "key", "value"): "qkv", ("key", "value"): "kv", ("gate", "up"): "gate_up"}


def fuse(mine: list[Layer], others: list[Layer]) -> list[Layer]:
    """The layers of one side, with siblings put together where the other side needs them so.

    Args:
        mine: Layers of this side.
        others: Layers of the other side.
    """
    have = Counter(size_class(layer.main) for layer in mine)
    need = Counter(size_class(layer.main) for layer in others)
    gone: set[int] = set()
    new: list[Layer] = []
    for family in _families(mine):
        classes = Counter(size_class(whole.main) for _, whole in family)
        if any(have[key] + n > need[key] + n // 2 for key, n in classes.items()):
            continue
        for parts, whole in family:
            if not any(id(p) in gone for p in parts):
                gone.update(id(p) for p in parts)
                have[size_class(whole.main)] += 1
                new.append(whole)
                new.extend(_rest(parts, whole))
    if not new:
        return mine
    kept = [layer for layer in mine if id(layer) not in gone]
    out = sorted([*kept, *new], key=lambda layer: layer.order)
    describe(out)
    return out


Family = list[tuple[list[Layer], Layer]]


def _families(mine: list[Layer]) -> list[Family]:
    """Siblings that may be put together, in families of one pattern."""
    by_parent: dict[tuple[str, tuple[str, ...]], dict[str, Layer]] = defaultdict(dict)
    for layer in mine:
        role = role_of(layer)
        if role and len(layer.main) == 2:
            rest = tuple(w for w in layer.last if w != role)
            by_parent[layer.path.rpartition(".")[0], rest].setdefault(role, layer)
    made: dict[tuple[tuple[str, ...], str, tuple[str, ...]], Family] = defaultdict(list)
    for (parent, rest), roles in by_parent.items():
        for together in _NAMES:
            parts = [roles[r] for r in together if r in roles]
            whole = _whole(parent, rest, together, parts) if len(parts) == len(together) else None
            if whole is not None:
                made[together, _DIGITS.sub("#", parent), rest].append((parts, whole))
    order = list(_NAMES)
    return sorted(made.values(), key=lambda f: (order.index(tuple(role_of(p) for p in f[0][0])), f[0][1].order))


def role_of(layer: Layer) -> str:
    """The one role that a layer's name gives it."""
    roles = [w for w in layer.last if w in ("query", "key", "value", "gate", "up")]
    return roles[0] if len(roles) == 1 else ""


def _whole(parent: str, rest: tuple[str, ...], together: tuple[str, ...], parts: list[Layer]) -> Layer | None:
    name = "_".join((*rest, _NAMES[together]))
    leaves: dict[str, Tensor] = {}
    pieces: dict[str, tuple[Tensor, ...]] = {}
    for leaf in ("weight", "bias"):
        tensors = [p.leaves.get(leaf) for p in parts]
        there = [t for t in tensors if t is not None]
        if len(there) < len(parts):
            continue
        if len({t.shape[1:] for t in there}) > 1:
            return None
        key = f"{parent}.{name}.{leaf}"
        leaves[leaf] = Tensor(key, (sum(t.shape[0] for t in there), *there[0].shape[1:]), there[0].dtype)
        pieces[leaf] = tuple(there)
    if "weight" not in leaves:
        return None
    path = f"{parent}.{name}".lstrip(".")
    return Layer(path, leaves, min(p.order for p in parts), main=leaves["weight"].shape, parts=pieces)


def _rest(parts: Iterable[Layer], whole: Layer) -> list[Layer]:
    """What of the parts is not in the whole: biases that only some of them have."""
    out = []
    for part in parts:
        left = {leaf: t for leaf, t in part.leaves.items() if leaf not in whole.leaves}
        if left:
            out.append(Layer(part.path, left, part.order))
    return out

"""Whether two listings can be of one model at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from relight.facts.mapper.layers import Layer, Tensor, dotted, split_key
from relight.facts.mapper.matching import Match
from relight.facts.mapper.words import stripped

_HALF_FILLED = 0.5
_SAME = 0.3  # cost of a layer that has the same name but for a word
_MOST = 0.8
_SURE = 1.3  # cost of a layer below which names or places, not sizes alone, speak for it


def unrelated(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    matches: Sequence[Match],
) -> str:
    """Why the two are different models; empty where they are not.

    Blocks of a usual width fit blocks of any other model of that width. What a model has once, its first and last
    matrices, fits only itself.
    """
    counts = Counter(_sizes(t) for t in target if len(t.shape) > 1)
    once = {shape for shape, n in counts.items() if n == 1}
    if sum(m.cost < _SAME for m in matches) >= _MOST * len({split_key(stripped(dotted(t.key)))[0] for t in source}):
        return ""  # all that there is has its place: an adapter, or one part of the model
    named = [m for m in matches if m.cost < _SURE or set(m.source.last) & set(m.target.last)]
    settled = [t for m in named for t in m.target.leaves.values()]
    if not once or any(_sizes(t) in once for t in settled):
        return ""
    if Counter(_sizes(t) for t in source) == Counter(_sizes(t) for t in target):
        return ""  # every tensor has its like, to the last one
    if sum(m.source.pattern == m.target.pattern for m in matches) * 2 > len(matches):
        return ""
    return "nothing that the model has only once is in the checkpoint: these are different models"


def other_blocks(source: Sequence[Layer], target: Sequence[Layer], matches: Sequence[Match]) -> str:
    """Why the repeated blocks are of another kind; empty where they are not.

    Where most blocks of the model find some of their matrices and lack others, and the blocks that those come from
    have matrices left over, a norm and a projection of usual width have met: a mixer is no transformer.
    """
    mine = {t.key for m in matches for t in _tensors(m.source)}
    theirs = {t.key for m in matches for t in _tensors(m.target)}
    if all(t.key in theirs for layer in target for t in layer.leaves.values()):
        return ""
    if _half_filled(target, theirs) > _HALF_FILLED and _half_filled(source, mine) > _HALF_FILLED:
        return "the repeated blocks hold other layers: these are different models"
    return ""


def _tensors(layer: Layer) -> list[Tensor]:
    return [*layer.leaves.values(), *(t for parts in layer.parts.values() for t in parts)]


def _half_filled(layers: Sequence[Layer], used: set[str]) -> float:
    """Share of the matrices' elements that lies in numbered blocks of which some matrices are used and some not."""
    blocks: dict[tuple[str, tuple[int, ...]], list[tuple[int, bool]]] = defaultdict(list)
    total = 0
    for layer in layers:
        if len(layer.main) < 2 or "lora" in layer.words:  # what an adapter adds is no other kind of block
            continue
        n = layer.numel
        total += n
        if layer.unit:
            taken = any(t.key in used for t in layer.leaves.values())
            blocks[(layer.unit.partition("#")[0], layer.block[:1])].append((n, taken))
    half = sum(n for b in blocks.values() if {taken for _, taken in b} == {True, False} for n, _ in b)
    return half / total if total else 0.0


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    return tuple(sorted(tensor.shape))

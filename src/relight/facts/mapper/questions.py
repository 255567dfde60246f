"""What only a person can say about a mapping, each with the option that answers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from relight.facts.mapper.layers import Tensor, split_key
from relight.facts.mapper.pairs import KeyMap
from relight.facts.mapper.words import stripped, vocabulary, words

_MANY = 3


def ask(found: KeyMap, source: Sequence[Tensor], target: Sequence[Tensor]) -> Iterator[str]:
    """Questions that the mapping leaves open."""
    yield from _copies(found, source)
    resized = [p for p in found.pairs.values() if "resize" in p.op]
    if resized:
        yield f"{_some([p.target for p in resized])}: other sizes; which rows are kept? Leave them out: --drop resize"
    unsure = [p for p in found.pairs.values() if p.confidence == "ambiguous"]
    if unsure:
        yield (
            f"{_some([p.target for p in unsure])}: equal shapes that only an order tells apart. "
            "Leave them out: --only likely"
        )
    warned = [p for p in found.pairs.values() if p.warning]
    if warned:
        yield f"{_some([p.target for p in warned])}: {warned[0].warning}"
    yield from _other_heads(found, source, target)


def _copies(found: KeyMap, source: Sequence[Tensor]) -> Iterator[str]:
    """Another copy of the model among what is left over."""
    leftover = set(found.leftover)
    taken = Counter(split_key(stripped(s))[1] for p in found.pairs.values() for s in p.source)
    fronts = Counter(t.key.split(".")[0] for t in source if t.key in leftover)
    for front, n in fronts.most_common(_MANY):
        if n * 2 > sum(taken.values()) and set(words(front)) & vocabulary().copies:
            yield f"{front}.* is another copy of the model. Take it instead: --prefix {front}."


def _other_heads(found: KeyMap, source: Sequence[Tensor], target: Sequence[Tensor]) -> Iterator[str]:
    """Layers on both sides that fit each other, under names that differ where all others agree."""
    shapes = {t.key: t.shape for t in source}
    free = Counter(shapes[k] for k in found.leftover if len(shapes[k]) > 1)
    wanted = {t.key: t.shape for t in target}
    fits = [k for k in found.initialised if free[wanted[k]]]
    if fits:
        yield f"{_some(fits)}: tensors of that shape are left over under other names. Say which: a rule of your own"


def _some(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1:,} more"

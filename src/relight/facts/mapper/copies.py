"""Several copies of one model in a checkpoint: an average or a teacher beside what was trained."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from relight.facts.mapper.exact import plain
from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.words import vocabulary, words

_ALIKE = 0.9  # of a part that has its like in the other, for the two to be copies
_FEWEST = 8  # tensors of a part that is worth the name
_DEPTH = 3  # names at the start of a key among which copies are looked for


def live(source: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
    """The source without copies that the target has no use for: one model is not filled from two.

    A part whose name says that it is a copy goes, where a part beside it holds the same and the target finds as many
    tensors of each size without it.

    Args:
        source: Tensors of the checkpoint.
        target: Tensors of the model.
    """
    kept = list(source)
    for depth in range(1, _DEPTH + 1):
        split = [(t.key.split(".", depth), t.shape) for t in kept]
        suspects = {n[depth - 1] for n, _ in split if len(n) > depth}
        if not any(_is_copy(own) for own in suspects):
            continue
        parts: dict[str, dict[str, dict[str, tuple[int, ...]]]] = defaultdict(lambda: defaultdict(dict))
        for names, shape in split:
            if len(names) > depth:
                parts[".".join(names[: depth - 1])][names[depth - 1]][plain(names[depth])] = shape
        for parent, siblings in parts.items():
            for own, part in siblings.items():
                others = [o for name, o in siblings.items() if name != own and not _is_copy(name)]
                if len(part) >= _FEWEST and _is_copy(own) and any(_same(part, o) for o in others):
                    front = f"{parent}.{own}." if parent else f"{own}."
                    fewer = [t for t in kept if not t.key.startswith(front)]
                    if _covered(fewer, target) == _covered(kept, target):
                        kept = fewer
    return kept


def _is_copy(name: str) -> bool:
    return not vocabulary().copies.isdisjoint(words(name))


def _same(part: dict[str, tuple[int, ...]], other: dict[str, tuple[int, ...]]) -> bool:
    """Whether a part has most of its tensors in another as well, under the same names."""
    return sum(other.get(name) == shape for name, shape in part.items()) >= _ALIKE * len(part)


def _covered(source: Sequence[Tensor], target: Sequence[Tensor]) -> int:
    """How many tensors of the target find one of their size, each of the source taken once."""
    have = Counter(tuple(sorted(t.shape)) for t in source)
    need = Counter(tuple(sorted(t.shape)) for t in target)
    return sum((have & need).values())

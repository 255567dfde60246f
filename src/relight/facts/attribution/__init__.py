"""One partition of all missing, unexpected and mismatched keys into explanations.

It is built once per check, so that no key is explained twice: comparison rules word the explanations of their kind,
and the residual rule takes the rest. Matchers run in a fixed order, the most specific first; each sees only what the
ones before it left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from relight.core.checkpoint import Checkpoint
from relight.core.target import ModelSpec
from relight.facts.arguments import Arguments, follows
from relight.facts.attribution import (
    adapters,
    buffers,
    copies,
    forms,
    positions,
    quantised,
    renames,
    rest,
    shapes,
    told,
    variants,
    wrappers,
)
from relight.facts.attribution.board import Board, Explanation
from relight.facts.keys import KeyDiff, Mismatch

__all__ = ["Attribution", "Explanation", "attribute", "with_arguments"]

_MATCHERS = (
    wrappers.match_wrappers,
    wrappers.match_tied,
    adapters.match_adapters,
    copies.match_copies,
    quantised.match_quantised,
    forms.match_forms,
    copies.match_averaged_only,
    wrappers.match_attribute_prefix,
    positions.match_index_shift,
    forms.match_norm_kind,
    renames.match_mapped,
    renames.match_equals,
    buffers.match_buffers,
    copies.match_helpers,
    variants.match_variant,
    shapes.match_shapes,
    rest.match_rest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The partition.

    Attributes:
        explanations: In the order of a report: what concerns the most keys first within a kind.
        unrelated: Whether file and model have so little in common that another class was probably meant.
    """

    explanations: tuple[Explanation, ...] = ()
    unrelated: bool = False

    def of(self, *kinds: str) -> tuple[Explanation, ...]:
        """Explanations of the given kinds."""
        return tuple(e for e in self.explanations if e.kind in kinds)


def attribute(
    diff: KeyDiff,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    names: Mapping[tuple[str, str], Sequence[tuple[str, str]]] | None = None,
) -> Attribution:
    """Explain all keys that differ.

    Args:
        diff: What torch will find.
        checkpoint: The file.
        spec: The model.
        names: Names that the user told, as `told.told_pairs` gives them: they settle what they say.
    """
    if diff.clean and not names:
        return Attribution()
    board = Board(diff, checkpoint, spec)
    if names:
        told.match_told(board, names)
    for match in _MATCHERS:
        match(board)
    if variants.unrelated(board):
        # What little fits fits by chance; names that sizes alone brought together would only mislead.
        kept = tuple(e for e in board.explanations if e.kind not in ("renamed", "fused", "index-shift"))
        return Attribution(explanations=kept, unrelated=True)
    return Attribution(explanations=tuple(board.explanations))


def with_arguments(attribution: Attribution, arguments: Arguments) -> Attribution:
    """Shapes that follow from dropped hyper_parameters and the defaults that took their places: one cause for all."""
    dropped = dict(arguments.dropped)
    out: list[Explanation] = []
    for e in attribution.explanations:
        hits: dict[str, None] = {}
        if e.kind in ("size", "head", "vocabulary", "positions", "channels"):
            for size in sizes_of(e.mismatched):
                led = [n for n, p in arguments.renamed.items() if follows(dropped[n], p, size)]
                if not led:
                    hits.clear()
                    break
                hits.update(dict.fromkeys(led[:1]))
        if hits:
            e = replace(e, kind="argument", cause="hparam-renamed-default", about={"dropped": tuple(hits)})
        out.append(e)
    return replace(attribution, explanations=tuple(out))


def sizes_of(mismatched: Iterable[Mismatch]) -> set[tuple[int, int]]:
    """(in the file, in the model) of the dimensions that differ, where both have as many."""
    return {
        (a, b)
        for m in mismatched
        if len(m.saved) == len(m.wanted)
        for a, b in zip(m.saved, m.wanted, strict=True)
        if a != b
    }

"""What the mapper finds: pairs of keys, and what is left on both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relight.facts.mapper import leftovers
from relight.facts.mapper.matching import Match

LEVELS = ("ambiguous", "likely", "certain")


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a tensor of the model comes from.

    Attributes:
        target: Key in the model.
        source: Keys in the checkpoint, in order.
        op: What makes the target of them: ``copy``, ``transpose``, ``reshape``, ``resize``, ``concat:D``,
            ``split:D:I/N``, ``slice:D:A:B``, ``stack:0``, ``stack2:D``, ``permute:A,B,C,D``, joined by ``+``.
        confidence: ``certain``, ``likely`` or ``ambiguous``.
        reason: In words.
        warning: Why the pair may be wrong although it fits, as for another kind of norm.
    """

    target: str
    source: tuple[str, ...]
    op: str
    confidence: str
    reason: str
    warning: str = ""


@dataclass(slots=True)
class KeyMap:
    """Which tensor of a checkpoint belongs where in a model.

    Attributes:
        pairs: By target key.
        initialised: Target keys without a source.
        leftover: Source keys that nothing needs.
        questions: What only a person can say, with the option that answers it.
        refused: Why nothing was mapped, where nothing was.
        shapes: Shapes in the model by key.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    initialised: tuple[str, ...] = ()
    leftover: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    refused: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def convert(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The state_dict under the model's keys, in the model's shapes.

        Args:
            state_dict: Tensors by key of the checkpoint.

        Returns:
            Tensors by key of the model, as far as they have a source; what nothing needs is left out.

        Raises:
            UsageError: A key of the mapping is not in the state_dict, or a pair would have to be resized, which
                invents values: map with ``drop=["resize"]``.
        """
        from relight.facts.mapper.convert import convert

        return convert(self, state_dict)


def pairs_of(match: Match, turned: set[int], confidence: str) -> list[Pair]:
    """The tensors of two layers that belong together."""
    out = []
    warning = leftovers.other_norm(match)
    s, t = match.source, match.target
    for leaf, tensor in t.leaves.items():
        other = s.leaves.get(leaf)
        if other is None and len(t.leaves) == 1 and len(s.leaves) == 1:
            other = next(iter(s.leaves.values()))
        if other is None:
            continue
        op = operation(other.shape, tensor.shape, kernel=other.key.endswith("kernel"))
        if op == "copy" and id(t) in turned and len(tensor.shape) == 2:
            op = "transpose"
        if op is None:
            continue
        if leaf in t.parts:
            start = 0
            pieces = t.parts[leaf]
            for i, piece in enumerate(pieces):
                dim = 1 if op == "transpose" else 0
                if len({p.shape for p in pieces}) == 1:
                    how = f"split:{dim}:{i}/{len(pieces)}"
                else:
                    how = f"slice:{dim}:{start}:{start + piece.shape[0]}"
                start += piece.shape[0]
                how += "" if op == "copy" else f"+{op}"
                out.append(Pair(piece.key, (other.key,), how, confidence, "one of the fused projections"))
        elif leaf in s.parts:
            how = "concat:0" if op == "copy" else f"concat:0+{op}"
            keys = tuple(p.key for p in s.parts[leaf])
            out.append(Pair(tensor.key, keys, how, confidence, "the projections put together"))
        elif op == "transpose" and other.shape == tensor.shape and leftovers.of_its_own(other):
            reason = "a matrix of its own is multiplied from the right; a Linear layer holds it turned"
            out.append(Pair(tensor.key, (other.key,), op, LEVELS[min(LEVELS.index(confidence), 1)], reason, warning))
        else:
            out.append(Pair(tensor.key, (other.key,), op, confidence, "name and place", warning))
    return out


def operation(source: tuple[int, ...], target: tuple[int, ...], *, kernel: bool = False) -> str | None:
    """What makes one shape of another without inventing a value.

    Args:
        source: Shape in the checkpoint.
        target: Shape in the model.
        kernel: Whether it is a kernel of Flax or TensorFlow, whose last dimension is that of the output.
    """
    if kernel and len(source) == 4 and target == (source[3], source[2], source[0], source[1]):
        return "permute:3,2,0,1"
    if kernel and len(source) == 3 and len(target) == 2 and math.prod(source) == math.prod(target):
        return "reshape+transpose"
    if source == target:
        return "copy"
    if len(source) > 1 and source == target[::-1]:
        return "transpose"
    if math.prod(source) == math.prod(target):
        return "reshape"
    return "resize" if leftovers.one_differs(source, target) else None


def confidence_of(match: Match, *, twin: bool = False, rest: bool = False) -> str:
    """How sure a pair is.

    Args:
        match: The layers.
        twin: Only an order tells them apart: never more than ambiguous.
        rest: They are what equal names have left over: that none other has their size, or that places agree, says little then.
    """
    if twin:
        return "ambiguous"
    named = not rest or bool(set(match.source.last) & set(match.target.last))
    if named and match.margin > 0.6 and match.cost < (1.5 if match.margin >= 9.0 and not rest else 0.8):
        return "certain"
    return "likely" if match.margin > 0.15 else "ambiguous"

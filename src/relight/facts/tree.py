"""The keys of a state_dict as a tree, with runs of equal numbered layers folded into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from relight.core.checkpoint import TensorEntry

Signature: TypeAlias = tuple[object, ...]
_DEPTH = 60


@dataclass(slots=True)
class Node:
    """One step of the keys.

    Attributes:
        name: The step: ``layer1``, ``0``, or ``0-11`` for a folded run.
        count: How many equal siblings this node stands for.
        tensors: Tensors directly in this module, by their last step.
        children: Modules below.
    """

    name: str
    count: int = 1
    tensors: list[TensorEntry] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[TensorEntry]:
        """Tensors of this node and below, of one of its siblings only."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield from node.tensors
            stack.extend(node.children)

    def totals(self) -> tuple[int, int]:
        """(tensors, values) of all that this node stands for, folded siblings included."""
        tensors = len(self.tensors)
        values = sum(t.numel for t in self.tensors)
        for child in self.children:
            t, v = child.totals()
            tensors, values = tensors + t, values + v
        return tensors * self.count, values * self.count


def tree(tensors: Iterable[TensorEntry]) -> Node:
    """The tree of all keys, unfolded."""
    root = Node("")
    index: dict[tuple[int, str], Node] = {}
    for tensor in tensors:
        node = root
        # Keys come from the file: what is deeper than any model stays in one step, so that walking it cannot recurse far.
        for step in tensor.key.split(".", _DEPTH)[:-1]:
            known = index.get((id(node), step))
            if known is None:
                known = index[(id(node), step)] = Node(step)
                node.children.append(known)
            node = known
        node.tensors.append(tensor)
    return root


def folded(root: Node) -> Node:
    """A copy in which runs of numbered siblings with equal contents are one node."""
    return _fold(root)[0]


def _fold(node: Node) -> tuple[Node, Signature]:
    out: list[Node] = []
    signatures: list[Signature] = []
    last = -2  # number of the sibling before, where it has one
    for original in node.children:
        child, signature = _fold(original)
        number = int(child.name) if child.name.isdigit() and len(child.name) < 10 else -2
        if out and number == last + 1 and signatures[-1] == signature:
            run = out[-1]
            run.name = f"{run.name.partition('-')[0]}-{child.name}"
            run.count += 1
        else:
            out.append(child)
            signatures.append(signature)
        last = number
    own = tuple((t.key.rpartition(".")[2], t.dtype, t.shape, t.device) for t in node.tensors)
    inner = tuple((c.name, c.count, s) for c, s in zip(out, signatures, strict=True))
    return Node(node.name, node.count, node.tensors, out), (own, inner)

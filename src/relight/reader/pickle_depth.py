"""How deep containers sit inside containers, told without walking the tree.

A pickler attaches a container to its parent when it is complete, so the height of each is known at that moment from
the heights of its parts. Only a value that was fetched again (from the memo, or by DUP) can grow after it was
attached; where that happened, the finished tree is walked once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relight.core.objects import Call, DictNode, ListNode, Persistent, SetNode, Value, children
from relight.reader.limits import Limits
from relight.reader.pickle_args import reached

CONTAINERS = frozenset({tuple, ListNode, DictNode, SetNode, Call, Persistent})


class Depths:
    """Heights of the containers of one stream.

    Args:
        limits: What is allowed.

    Attributes:
        fetched: Ids of containers that came from the memo or from DUP.
        late: Whether one of them was filled afterwards.
    """

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.nesting
        self.limits = limits
        self.fetched: set[int] = set()
        self.late = False
        # By id, beside the nodes so that nodes stay small; an id must not be reused while it is in the table.
        self._height: dict[int, int] = {}
        self._keep: list[object] = []

    def nest_all(self, parent: Any, parts: Iterable[Any]) -> None:
        """Note that parts were put into a parent; refuse what no real file has."""
        height = self._height
        tallest = 0
        for part in parts:
            kind = part.__class__
            if kind in CONTAINERS:
                tall = height.get(id(part))
                if tall is None:  # nothing but leaves; a call is one more than its arguments
                    tall = height.get(id(part.args), 1) + 1 if kind is Call else 1 if part != () else 0
                if tall > tallest:
                    tallest = tall
        own = height.get(id(parent))
        if own is None:
            own = height.get(id(parent.args), 1) + 1 if parent.__class__ is Call else 1
        if tallest >= own:
            if tallest >= self.limit:
                raise reached(self.limits, "nesting", f"nested deeper than {self.limit:,}")
            if id(parent) not in height:
                self._keep.append(parent)
            height[id(parent)] = tallest + 1
        if self.fetched and id(parent) in self.fetched:
            self.late = True

    def note(self, parent: object, height: int) -> None:
        """Note a height that is known without looking at the parts."""
        self._height[id(parent)] = height
        self._keep.append(parent)

    def check_late(self, root: Value) -> None:
        """Walk the tree, if something in it grew after it was attached: the way down that a recursion would take."""
        if not self.late:
            return
        seen: set[int] = {id(root)}
        stack = [iter([part for _, part in children(root)])]
        while stack:
            if len(stack) > self.limit:
                raise reached(self.limits, "nesting", f"nested deeper than {self.limit:,}")
            for part in stack[-1]:
                if part.__class__ in CONTAINERS and id(part) not in seen:
                    seen.add(id(part))
                    stack.append(iter([p for _, p in children(part)]))
                    break
            else:
                stack.pop()

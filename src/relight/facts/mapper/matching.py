"""Which layer of one side is which of the other: names, numbers and what is learnt from the pair at hand.

Layers are compared only within one class of sizes. In every class the cheapest assignment is taken; what it says about
words, patterns and parents makes the next round better informed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from relight.facts.mapper.assignment import assign
from relight.facts.mapper.layers import Layer, Level, rank
from relight.facts.mapper.words import vocabulary

_ROUNDS = 5
_LARGE = 2500  # pairs in a class above which patterns are assigned instead of layers
_FORBIDDEN = 50.0
_ORDER = 0.1  # weight of the listing order, which is weak evidence
_TOO_DEAR = 3.5
_FEW_TWINS = 64
_GUESSED = 0.5  # margin of layers that are aligned although their blocks do not agree
_NEAR = 3  # parents that are looked at, from the layer upwards
_NONE: dict[str, int] = {}

SizeClass = tuple[int, ...]


def size_class(shape: tuple[int, ...]) -> SizeClass:
    """Sizes regardless of order and of ones: what copying, transposing or reshaping may bring together."""
    return tuple(sorted(n for n in shape if n != 1))


@dataclass(slots=True)
class Learnt:
    """What the assignment of the round before says.

    Attributes:
        words: How often a word of the source stood where another stood in the target.
        patterns: How often layers of two patterns were paired.
        parents: How often layers below two paths were paired.
    """

    words: Counter[tuple[str, str]] = field(default_factory=Counter)
    source_words: Counter[str] = field(default_factory=Counter)
    target_words: Counter[str] = field(default_factory=Counter)
    patterns: Counter[tuple[str, str]] = field(default_factory=Counter)
    parents: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Match:
    """Two layers that belong together.

    Attributes:
        source: The layer of the checkpoint.
        target: The layer of the model.
        cost: What the pair costs: near zero for the same name at the same place.
        margin: How much dearer the best other choice in the class is.
    """

    source: Layer
    target: Layer
    cost: float
    margin: float = 9.0


class Matcher:
    """Matches the layers of two sides.

    Args:
        source: Layers of the checkpoint.
        target: Layers of the model.
        classes: Which shapes are compared at all.
        known: Pairs that are settled already, to learn from.
    """

    def __init__(
        self,
        source: Sequence[Layer],
        target: Sequence[Layer],
        *,
        classes: Callable[[tuple[int, ...]], SizeClass] = size_class,
        known: Sequence[Match] = (),
    ) -> None:
        self._known = tuple(known)
        self.classes: list[tuple[list[Layer], list[Layer]]] = []
        self._learnt: Learnt | None = None
        self._backwards: set[tuple[str, str]] = set()
        sides: list[dict[SizeClass, list[Layer]]] = []
        for layers in (source, target):
            by_class: dict[SizeClass, list[Layer]] = defaultdict(list)
            for layer in layers:
                by_class[classes(layer.main)].append(layer)
            for members in by_class.values():
                rank(members)
            sides.append(by_class)
        for key, members in sides[1].items():
            if key in sides[0]:
                self.classes.append((sides[0][key], members))
        every = ([*source, *(m.source for m in known)], [*target, *(m.target for m in known)])
        self._source_patterns = Counter(layer.pattern for layer in every[0])
        self._target_patterns = Counter(layer.pattern for layer in every[1])
        self._below_source = Counter(a for layer in every[0] for a in (*layer.ancestors, layer.path))
        self._below_target = Counter(a for layer in every[1] for a in (*layer.ancestors, layer.path))
        self._ends = (max(len(source), 1), max(len(target), 1))
        self._weights: tuple[dict[str, float], dict[str, float]] = ({}, {})

    def run(self) -> list[Match]:
        """The pairs, after a few rounds of learning."""
        matches: list[Match] = []
        if not self.classes:
            return matches
        self._learnt = _learn(self._known) if self._known else None
        for turn in range(_ROUNDS):
            found = [m for members in self.classes for m in self._match(*members)]
            self._learnt = _learn([*self._known, *found])
            backwards = _backwards(found)
            if turn < 2 and backwards != self._backwards:  # what was learnt of parents was learnt the wrong way round
                self._backwards = backwards
                self._learnt.parents.clear()
            same = {(id(m.source), id(m.target)) for m in found} == {(id(m.source), id(m.target)) for m in matches}
            matches = found
            if same:
                break
        return matches

    # ------------------------------------------------------------ one class

    def _match(self, source: list[Layer], target: list[Layer]) -> list[Match]:
        self._weights = (_weights(source), _weights(target))
        if len(source) * len(target) > _LARGE:
            return self._match_patterns(source, target)
        cost = [[self.cost(s, t) for s in source] for t in target]
        return self._taken(source, target, cost)

    def _taken(self, source: list[Layer], target: list[Layer], cost: list[list[float]]) -> list[Match]:
        chosen = assign(cost)
        owner = {c: r for r, c in enumerate(chosen) if c >= 0}
        out = []
        for row, column in enumerate(chosen):
            if column < 0 or cost[row][column] > _TOO_DEAR:
                continue
            here = cost[row][column]
            margin = 9.0
            for other, value in enumerate(cost[row]):
                if other == column:
                    continue
                # Swapping two pairs, or taking a source that is free.
                rival = owner.get(other)
                swapped = value - here
                if rival is not None:
                    swapped += cost[rival][column] - cost[rival][other]
                margin = min(margin, swapped)
            for rival in range(len(target)):
                if chosen[rival] < 0:
                    margin = min(margin, cost[rival][column] - here)
            out.append(Match(source[column], target[row], here, margin))
        return out

    def _match_patterns(self, source: list[Layer], target: list[Layer]) -> list[Match]:
        """A large class: patterns are assigned, and the layers of two patterns by their numbers."""
        out: list[Match] = []
        for _ in range(3):
            groups = [_by_pattern(source), _by_pattern(target)]
            names = [list(g) for g in groups]
            if len(names[0]) * len(names[1]) > 4 * _LARGE:
                break
            cost = [[self._pattern_cost(groups[0][s], groups[1][t]) for s in names[0]] for t in names[1]]
            taken: set[int] = set()
            for row, column in enumerate(assign(cost)):
                if column < 0 or cost[row][column] > _TOO_DEAR:
                    continue
                rivals = [v for i, v in enumerate(cost[row]) if i != column]
                margin = min([v - cost[row][column] for v in rivals], default=9.0)
                here = groups[0][names[0][column]], groups[1][names[1][row]]
                if not _in_step(*here):
                    margin = min(margin, _GUESSED)
                # Layers that are aligned one by one cost what the sample did.
                same = cost[row][column] if len(here[0]) == len(here[1]) else None
                for s, t in _aligned(*here):
                    taken.update((id(s), id(t)))
                    out.append(Match(s, t, self.cost(s, t) if same is None else same, margin))
            source = [s for s in source if id(s) not in taken]
            target = [t for t in target if id(t) not in taken]
            if not taken or not source or not target:
                break
        if source and target and len(source) * len(target) <= _LARGE:
            out += self._taken(source, target, [[self.cost(s, t) for s in source] for t in target])
        return out

    def _pattern_cost(self, source: list[Layer], target: list[Layer]) -> float:
        pairs = _aligned(source, target)
        if not pairs:
            return _FORBIDDEN
        step = max(len(pairs) // 6, 1)
        sample = pairs[::step]
        mean = sum(self.cost(s, t) for s, t in sample) / len(sample)
        return mean + abs(len(source) - len(target)) / max(len(source), len(target))

    # ------------------------------------------------------------ one pair

    def cost(self, s: Layer, t: Layer) -> float:
        """What it costs to say that two layers are one."""
        out = 1.2 * (1.0 - self._alike(s, t))
        if s.shapes != t.shapes:
            out += _unlike_shapes(s, t)
        if _crossed(s, t) or opposed(s.words, t.words):
            return _FORBIDDEN
        out += _misplaced(s, t, self._backwards)
        out += 0.25 * abs(s.fine - t.fine)
        if s.own != t.own:
            out += 0.1
        if s.block + s.own != t.block + t.own:
            out += 0.1
        if s.tail != t.tail:
            out += 0.1
        out += _ORDER * abs(s.order / self._ends[0] - t.order / self._ends[1])
        out += _ORDER * abs(s.local - t.local)
        if self._learnt is not None:
            together = self._learnt.patterns.get((s.pattern, t.pattern), 0)
            most = max(self._source_patterns[s.pattern], self._target_patterns[t.pattern])
            out += 0.5 * (1.0 - together / most)
            out += 1.2 * (1.0 - self._parents(s, t))
        return out

    def _parents(self, s: Layer, t: Layer) -> float:
        """How much of what lies below the parents of one layer was found below those of the other."""
        learnt = self._learnt
        assert learnt is not None
        if not s.ancestors or not t.ancestors:
            return 1.0 if not s.ancestors and not t.ancestors else 0.5
        total = 0.0
        mine, theirs = s.ancestors[-_NEAR:], t.ancestors[-_NEAR:]
        few, many = (mine, theirs) if len(mine) <= len(theirs) else (theirs, mine)
        turned = few is not mine
        for a in few:
            best = 0.0
            for b in many:
                pair = (b, a) if turned else (a, b)
                n = learnt.parents.get(pair[0], _NONE).get(pair[1], 0)
                if n:
                    best = max(best, n / max(min(self._below_source[pair[0]], self._below_target[pair[1]]), 1))
            total += best
        return min(total / len(few), 1.0)

    def _alike(self, s: Layer, t: Layer) -> float:
        if s.words == t.words:
            return 1.0
        mine, theirs = self._weights
        left = list(t.words)
        rest: list[str] = []
        common = total = 0.0
        for word in s.words:
            weight = mine.get(word, 1.0)
            total += weight
            if word in left:
                left.remove(word)
                common += max(weight, theirs.get(word, 1.0))
                total += max(theirs.get(word, 1.0) - weight, 0.0)
            else:
                rest.append(word)
        learnt = self._learnt
        for word in left:
            total += theirs.get(word, 1.0)
        if learnt is not None and rest and left:
            for word in rest:
                best, which = 0.0, ""
                for other in left:
                    n = learnt.words.get((word, other), 0)
                    if n:
                        p = n / max(learnt.source_words[word], learnt.target_words[other])
                        if p > best:
                            best, which = p, other
                if which:
                    left.remove(which)
                    common += best * (mine.get(word, 1.0) + theirs.get(which, 1.0))
        return min(common / total, 1.0) if total else 1.0


def _weights(layers: list[Layer]) -> dict[str, float]:
    """How much a word tells layers of one class apart: one that all have tells nothing."""
    counts = Counter(w for layer in layers for w in set(layer.words))
    n = len(layers)
    return {w: 0.15 + 0.85 * (1.0 - c / n) if n > 1 else 0.6 for w, c in counts.items()}


def _unlike_shapes(s: Layer, t: Layer) -> float:
    out = 0.0
    for leaf, tensor in s.leaves.items():
        other = t.leaves.get(leaf)
        if other is None:
            out += 0.25 if leaf != "num_batches_tracked" else 0.0
        elif other.shape != tensor.shape:
            if size_class(other.shape) == size_class(tensor.shape):
                out += 0.5
            else:
                out += 0.6 if math.prod(other.shape) == math.prod(tensor.shape) else 0.8
    out += sum(0.25 for leaf in t.leaves if leaf not in s.leaves and leaf != "num_batches_tracked")
    return out


def _misplaced(s: Layer, t: Layer, backwards: set[tuple[str, str]]) -> float:
    """What it costs that two layers stand at other places among their repeated blocks."""
    best = 9.0
    for mine, dropped in _readings(s):
        for theirs, others in _readings(t):
            if len(mine) == len(theirs) and (mine or dropped + others < 0.1):
                out = dropped + others
                for (i, n, here), (j, m, there) in zip(mine, theirs, strict=True):
                    if n == m:
                        if (here, there) in backwards:
                            j = n - 1 - j
                        out += 0.35 + 0.8 * abs(i - j) / n if i != j else 0.0
                    else:  # one side has more: those that both have are most often the first
                        out += 0.08 + (0.3 + 0.5 * abs(i - j) / max(n, m) if i != j else 0.0)
                best = min(best, out)
    if len(s.levels) == len(t.levels) and all(a.among == b.among for a, b in zip(s.levels, t.levels, strict=True)):
        return best
    return min(best, 0.1 + _elsewhere(s, t))


def _readings(layer: Layer) -> list[tuple[tuple[Level, ...], float]]:
    """The levels, and what is left of them without one that the other side may not have, with what that costs."""
    levels = layer.levels
    out = [(levels, 0.0)]
    for i in range(len(levels)):
        name = layer.inner and i == len(levels) - 1
        out.append((levels[:i] + levels[i + 1 :], 0.02 if name else 0.12))
    return out


def _elsewhere(s: Layer, t: Layer) -> float:
    if s.ranks == t.ranks:
        return 0.35 + 0.8 * abs(s.place - t.place) if s.rank != t.rank else 0.0
    if s.overalls == t.overalls:
        return 0.35 + 0.8 * abs(s.overall - t.overall) / s.overalls if s.overall != t.overall else 0.0
    return 0.1 + 0.8 * abs(s.place - t.place)


def _crossed(s: Layer, t: Layer) -> bool:
    """Whether one is a query and the other a key."""
    roles = vocabulary().roles
    mine, theirs = roles.intersection(s.last), roles.intersection(t.last)
    return bool(mine and theirs and mine.isdisjoint(theirs) and {"query", "key", "value"} & mine)


def _backwards(matches: list[Match]) -> set[tuple[str, str]]:
    """Pairs of numbered steps that count in opposite directions, by what layers of a size of their own show."""
    votes: Counter[tuple[str, str]] = Counter()
    alike = Counter(m.source.shapes for m in matches)
    for m in matches:
        if (
            alike[m.source.shapes] > 1
            or m.source.shapes != m.target.shapes
            or len(m.source.levels) != len(m.target.levels)
        ):
            continue  # other layers of the class would be as good
        for a, b in zip(m.source.levels, m.target.levels, strict=True):
            if a.among == b.among and a.at != a.among - 1 - a.at:
                votes[(a.where, b.where)] += 1 if a.at + b.at == a.among - 1 else -1 if a.at == b.at else 0
    return {pair for pair, n in votes.items() if n > 0}


def opposed(mine: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether one name says actor and the other critic."""
    table = vocabulary().opposites
    return any(w in table and w not in theirs and any(o in theirs and o not in mine for o in table[w]) for w in mine)


def twins(matches: Sequence[Match]) -> set[int]:
    """Ids of matches that only an order speaks for: in the same block two layers of the same shapes change places.

    What was learnt cannot tell them apart either: it was learnt from the order of the round before.
    """
    groups: dict[tuple[object, ...], list[Match]] = defaultdict(list)
    for m in matches:
        groups[(m.source.shapes, m.source.unit, m.source.block, m.target.unit)].append(m)
    out: set[int] = set()
    for members in groups.values():
        if len(members) > _FEW_TWINS:
            continue
        for i, a in enumerate(members):
            for b in members[i + 1 :]:
                if not _told_apart(a, b):
                    out.update((id(a), id(b)))
    return out


def _told_apart(a: Match, b: Match) -> bool:
    """Whether words, or numbers that run the same way, say that two pairs are not to be exchanged."""
    kept = _shared(a.source, a.target) + _shared(b.source, b.target)
    swapped = _shared(a.source, b.target) + _shared(b.source, a.target)
    if kept > swapped:
        return True
    if kept < swapped:
        return False
    mine = (a.source.block + a.source.own, b.source.block + b.source.own)
    theirs = (a.target.block + a.target.own, b.target.block + b.target.own)
    return mine[0] != mine[1] and theirs[0] != theirs[1] and (mine[0] < mine[1]) == (theirs[0] < theirs[1])


def _shared(s: Layer, t: Layer) -> int:
    """Words that two layers have in common."""
    left = list(t.words)
    n = 0
    for word in s.words:
        if word in left:
            left.remove(word)
            n += 1
    return n + (s.own == t.own and s.own != ())


def _by_pattern(layers: list[Layer]) -> dict[tuple[str, tuple[str, ...]], list[Layer]]:
    """Layers that differ in the numbers of their blocks only: what is first and second in a block is not one."""
    out: dict[tuple[str, tuple[str, ...]], list[Layer]] = defaultdict(list)
    for layer in layers:
        out[layer.pattern, layer.words].append(layer)
    for members in out.values():
        members.sort(key=lambda m: m.block)
    return out


def _in_step(source: list[Layer], target: list[Layer]) -> bool:
    """Whether two lists that are aligned by their order have as many members in each outermost block."""
    if len(source) != len(target):
        mine = {s.block for s in source}
        theirs = {t.block for t in target}
        return mine <= theirs or theirs <= mine
    if len(source[0].block) != len(target[0].block) or len(source[0].block) < 2:
        return True
    counts = (Counter(layer.block[0] for layer in side) for side in (source, target))
    mine_each, theirs_each = ([n for _, n in sorted(c.items())] for c in counts)
    return mine_each == theirs_each


def _aligned(source: list[Layer], target: list[Layer]) -> list[tuple[Layer, Layer]]:
    if len(source) == len(target):
        return list(zip(source, target, strict=True))
    by_block = {s.block: s for s in source}
    equal = [(by_block[t.block], t) for t in target if t.block in by_block]
    if len(equal) == min(len(source), len(target)):
        return equal
    return list(zip(source, target, strict=False))


def _learn(matches: Sequence[Match]) -> Learnt:
    out = Learnt()
    parents = out.parents
    named: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for m in matches:
        out.patterns[(m.source.pattern, m.target.pattern)] += 1
        # Counted by hand, and only the paths that are looked at: this is most of what mapping a large model costs.
        theirs = (*m.target.ancestors[-_NEAR:], m.target.path)
        for a in (*m.source.ancestors[-_NEAR:], m.source.path):
            below = parents.get(a)
            if below is None:
                below = parents[a] = {}
            for b in theirs:
                below[b] = below.get(b, 0) + 1
        named[(m.source.words, m.target.words)] += 1
    for (mine, others), n in named.items():
        apart = (set(mine) - set(others), set(others) - set(mine))
        for w in apart[0]:
            out.source_words[w] += n
        for w in apart[1]:
            out.target_words[w] += n
        for a in apart[0]:
            for b in apart[1]:
                out.words[(a, b)] += n
    return out

"""Tensors under other names, put together or apart: what the key mapper says of the keys that differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from relight.facts.attribution.board import Board, Explanation, Shape
from relight.facts.attribution.wrappers import tied
from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.mapping import map_keys
from relight.facts.mapper.matching import opposed
from relight.facts.mapper.pairs import Pair
from relight.facts.mapper.words import words
from relight.facts.patterns import ends_cut, folded_pairs

_FEW_NAMES = 12  # beyond that it is another code base, not a rename


def match_mapped(board: Board) -> None:
    """What the key mapper finds: modules and tensors under other names, and projections put together or apart.

    Names and shapes of all that fits already are what it learns from. It is asked only where both sides have keys
    that the other lacks, and what it says of keys that fit as they are is not taken: those are torch's to match.
    """
    wanted = {**board.missing, **dict.fromkeys(k for k in board.filled if k in board.params)}
    turned = [k for k, m in board.mismatched.items() if m.saved != m.wanted == m.saved[::-1]]
    if not (board.unexpected and wanted) and not turned:
        return
    kept = {*board.diff.matched, *board.mismatched}
    source = [
        Tensor(e.key, e.shape, e.dtype) for e in board.entries.values() if e.key in board.unexpected or e.key in kept
    ]
    target = [
        Tensor(p.key, p.shape, p.dtype or "")
        for p in board.spec.params
        if p.shape is not None and (p.key in wanted or p.key in kept)
    ]
    found = map_keys(source, target).pairs.values()
    pairs = [p for p in found if p.target in wanted and all(s in board.unexpected for s in p.source)]
    # A weight that is turned beside others that are: its shape fits where it is square, and nothing would be said.
    silent = tuple(
        p.target for p in found if p.op == "transpose" and p.source == (p.target,) and p.target in board.diff.matched
    )
    simple = [p for p in pairs if p.op == "copy"]
    regrouped = [p for p in pairs if "+" not in p.op and p.op.startswith(("concat:0", "split:0", "slice:0"))]
    names = folded_pairs(ends_cut(p.source[0], p.target) for p in simple)
    if len(simple) + len(regrouped) < len(pairs) or len(names) > _FEW_NAMES:
        turned_too = [p for p in found if p.source == (p.target,) and p.target in turned and p.op == "transpose"]
        _add_converted(board, [*pairs, *turned_too], silent, tuple(found))
        return
    _add_renamed(board, simple)
    _add_regrouped(board, regrouped)
    if turned:
        _add_turned(board, turned, silent)


def _add_turned(board: Board, turned: Sequence[str], silent: tuple[str, ...]) -> None:
    """Weights under the same names, with rows and columns exchanged."""
    board.add(
        Explanation(
            kind="transposed",
            cause="conv1x1-vs-linear",
            mismatched=tuple(board.mismatched[k] for k in turned),
            about={"silent": silent},
        )
    )


def _add_converted(board: Board, pairs: Sequence[Pair], silent: tuple[str, ...], every: tuple[Pair, ...]) -> None:
    """A model of another code base: many names, and tensors that are turned, cut or put together as well."""
    sources = dict.fromkeys(s for p in pairs for s in p.source)
    board.add(
        Explanation(
            kind="converted",
            cause="module-renamed",
            missing=tuple(p.target for p in pairs if p.target in board.missing),
            unexpected=tuple(s for s in sources if s in board.unexpected),
            mismatched=tuple(board.mismatched[p.target] for p in pairs if p.target in board.mismatched),
            pairs=tuple((s, p.target) for p in pairs for s in p.source),
            certain=all(p.confidence == "certain" and p.op == "copy" for p in pairs),
            about={"pairs": tuple(pairs), "silent": silent, "every": every},
        )
    )


def _add_renamed(board: Board, pairs: Sequence[Pair]) -> None:
    """Copies under other names, by the prefixes that differ; sure and unsure ones apart."""
    groups: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    first: dict[str, str] = {}
    for pair in pairs:
        source = pair.source[0]
        if source in first:  # the model keeps one tensor of the file under two names
            board.add(tied(missing=(pair.target,), twin=first[source], pairs=((source, pair.target),)))
            continue
        first[source] = pair.target
        groups[ends_cut(pair.source[0], pair.target)].append(pair)
    alone = _without_rivals(board)
    for (old, new), members in groups.items():
        certain = all(p.confidence == "certain" or (p.source[0], p.target) in alone for p in members)
        _add(board, old, new, [(p.source[0], p.target) for p in members], certain=certain)


def _without_rivals(board: Board) -> set[tuple[str, str]]:
    """Pairs that are alone with their shape and the last step of their names on both sides, in subtrees that match.

    Nothing else that is left over could be meant, whatever the names are.
    """
    sides = (
        {k: (k.rpartition(".")[2], board.saved(k)) for k in board.unexpected},
        {k: (k.rpartition(".")[2], board.wanted(k)) for k in (*board.missing, *board.filled)},
    )
    looks = [Counter(side.values()) for side in sides]
    by_look = {look: k for k, look in sides[1].items()}
    out = set()
    for key, look in sides[0].items():
        if looks[0][look] == looks[1][look] == 1 and len(look[1] or ()) > 1:
            out.add((key, by_look[look]))
    # Biases and norms go with the matrix beside them.
    beside = {(o.rpartition(".")[0], n.rpartition(".")[0]) for o, n in out}
    for key in sides[0]:
        owner, _, leaf = key.rpartition(".")
        for old, new in beside:
            if owner == old and f"{new}.{leaf}" in sides[1]:
                out.add((key, f"{new}.{leaf}"))
    return out


def _add(board: Board, old: str, new: str, pairs: Sequence[tuple[str, str]], *, certain: bool) -> None:
    board.add(
        Explanation(
            kind="renamed",
            cause="module-renamed",
            missing=tuple(n for _, n in pairs if n in board.missing),
            unexpected=tuple(o for o, _ in pairs),
            pairs=tuple(pairs),
            certain=certain,
            about={"old": old, "new": new},
        )
    )


def _add_regrouped(board: Board, pairs: Sequence[Pair]) -> None:
    """Tensors that were put together or apart."""
    for direction, ops in (("fuse", "concat:0"), ("split", ("split:0", "slice:0"))):
        groups: dict[str, tuple[str, ...]] = {}
        for pair in pairs:
            if pair.op.startswith(ops):
                if direction == "fuse":
                    groups[pair.target] = pair.source
                else:
                    groups[pair.source[0]] = (*groups.get(pair.source[0], ()), pair.target)
        if groups:
            wholes, parts = tuple(groups), tuple(p for ps in groups.values() for p in ps)
            board.add(
                Explanation(
                    kind="fused",
                    cause="mha-inproj-split" if any("in_proj_" in w for w in wholes) else "fused-vs-split-qkv",
                    missing=tuple(k for k in (wholes if direction == "fuse" else parts) if k in board.missing),
                    unexpected=parts if direction == "fuse" else wholes,
                    certain=False,  # the order of the parts is by their names, which no shape can confirm
                    about={"groups": groups, "direction": direction},
                )
            )


def match_equals(board: Board) -> None:
    """Subtrees that are equal in everything but their names, on both sides: which is which no shape can tell."""
    while votes := {r: pairs for r, pairs in _prefix_votes(board).items() if not _opposed(*r)}:
        rename = max(votes, key=lambda r: (len(votes[r]), -len(r[0]) - len(r[1])))
        rivals = _rivals(votes, rename)
        if rivals:
            _add_ambiguous(board, {rename: votes[rename], **{r: votes[r] for r in rivals}})
        else:
            _add(board, *rename, votes[rename], certain=False)


def _opposed(old: str, new: str) -> bool:
    """Whether the names say that these are different things: an actor and a critic."""
    mine, theirs = ([w for step in name.split(".") for w in words(step)] for name in (old, new))
    return opposed(mine, theirs) or opposed(theirs, mine)


Rename = tuple[str, str]
Votes = dict[Rename, list[tuple[str, str]]]


def _prefix_votes(board: Board) -> Votes:
    """For every pair of prefixes that could be a rename, the pairs of keys that it would join."""
    by_leaf: dict[tuple[str, Shape | None], list[str]] = defaultdict(list)
    wanted = (*board.missing, *board.filled)
    for key in wanted:
        by_leaf[(key.rpartition(".")[2], board.wanted(key))].append(key)
    votes: Votes = defaultdict(list)
    for old in board.unexpected:
        leaf = old.rpartition(".")[2]
        for new in (*by_leaf.get((leaf, board.saved(old)), ()), *by_leaf.get((leaf, None), ())):
            a, b = old.split("."), new.split(".")
            common = 0
            while common < min(len(a), len(b)) and a[-1 - common] == b[-1 - common]:
                common += 1
            for depth in range(1, common + 1):
                rename = ".".join(a[:-depth]), ".".join(b[:-depth])
                if all(rename):
                    votes[rename].append((old, new))
    # A subtree moves as a whole: keys under either prefix that find no partner speak against the pair.
    below_old, below_new = _keys_below(board.unexpected), _keys_below(wanted)
    return {
        rename: pairs
        for rename, pairs in votes.items()
        if len({o for o, _ in pairs}) == len(pairs) == len({n for _, n in pairs})
        and len(pairs) == below_old[rename[0]] == below_new[rename[1]]
    }


def _keys_below(keys: Iterable[str]) -> Mapping[str, int]:
    """How many keys lie below each prefix."""
    counts: dict[str, int] = defaultdict(int)
    for key in keys:
        end = key.rfind(".")
        while end > 0:
            counts[key[:end]] += 1
            end = key.rfind(".", 0, end)
    return counts


def _rivals(votes: Votes, rename: Rename) -> list[Rename]:
    """Other renames that would take the same keys of one side, and as many."""
    old_keys = {o for o, _ in votes[rename]}
    new_keys = {n for _, n in votes[rename]}
    return [
        other
        for other, pairs in votes.items()
        if other != rename
        and len(pairs) >= len(old_keys)
        and (not old_keys.isdisjoint(o for o, _ in pairs) or not new_keys.isdisjoint(n for _, n in pairs))
        and not _same_rename(other, rename)
    ]


def _add_ambiguous(board: Board, votes: Votes) -> None:
    """Equal subtrees under new names, which cannot be told apart."""
    news = {n: pairs for (_, n), pairs in votes.items()}
    # Bring in the equals of the equals: all old names that compete for these new ones, and the reverse.
    every = _prefix_votes(board)
    olds: dict[str, None] = {}
    for (old, new), pairs in every.items():
        if new in news and len(pairs) == len(news[new]):
            olds[old] = None
    all_news = {
        n: None for (o, n), pairs in every.items() if o in olds and len(pairs) == len(next(iter(news.values())))
    }
    missing = tuple(k for k in board.missing if any(k.startswith(n + ".") for n in all_news))
    unexpected = tuple(k for k in board.unexpected if any(k.startswith(o + ".") for o in olds))
    board.add(
        Explanation(
            kind="renamed",
            cause="module-renamed",
            missing=missing,
            unexpected=unexpected,
            certain=False,
            about={"olds": tuple(olds), "news": tuple(all_news)},
        )
    )


def _same_rename(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether two renames say the same at another depth: ``x → y`` and ``x.0 → y.0``."""
    (a1, a2), (b1, b2) = sorted((a, b), key=lambda r: len(r[0]))
    return b1[len(a1) :] == b2[len(a2) :] and b1.startswith(a1 + ".") and b2.startswith(a2 + ".")

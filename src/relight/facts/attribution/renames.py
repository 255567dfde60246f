"""Subtrees under another name, by the keys below them and their shapes."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from relight.facts.attribution.board import Board, Explanation, Shape


def match_renames(board: Board) -> None:
    """Subtrees that sit under another name: pairs of prefixes that carry the most keys, greedily, one to one.

    Where several subtrees are equal in everything but their names, names that are clearly alike decide (a guess, and
    marked as one); where not even those help, the group is reported without saying which is which.
    """
    guessed: set[tuple[tuple[str, Shape | None], ...]] = set()
    while votes := _prefix_votes(board):
        rename, pairs = max(votes.items(), key=lambda v: (len(v[1]), _affinity(*v[0]), -len(v[0][0]) - len(v[0][1])))
        rivals = _rivals(votes, rename)
        look = tuple(sorted((o[len(rename[0]) :], board.saved(o)) for o, _ in pairs))
        if rivals and any(_affinity(*rename) - _affinity(*r) <= 0.3 for r in rivals):
            _add_ambiguous(board, {rename: pairs, **{r: votes[r] for r in rivals}})
            continue
        if rivals:
            guessed.add(look)
        board.add(
            Explanation(
                kind="renamed",
                cause="module-renamed",
                missing=tuple(n for _, n in pairs if n in board.missing),
                unexpected=tuple(o for o, _ in pairs),
                pairs=tuple(pairs),
                certain=look not in guessed,  # the last of several equals follows by elimination from guesses
                about={"old": rename[0], "new": rename[1]},
            )
        )


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


def _affinity(old: str, new: str) -> float:
    """How alike two names look, 0 to 1; an initial or abbreviation counts as alike (``q`` and ``query``)."""
    a, b = old.rpartition(".")[2].lower(), new.rpartition(".")[2].lower()
    if a and b and (b.startswith(a) or a.startswith(b)):
        return 0.9
    return difflib.SequenceMatcher(None, a, b).ratio()

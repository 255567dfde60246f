"""Second copies of a network, and networks that only training needs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation, Shape
from relight.facts.attribution.rest import top_modules

_MOST = 0.8  # of the keys below a name that must have a live counterpart, for the name to hold a copy
_JOINTS = re.compile(r"[._]")


def match_copies(board: Board) -> None:
    """An averaged or momentum copy (EMA, teacher) that one side keeps beside the live network."""
    words = data.load("key_patterns")["copies"]
    segments, counters = set(words["segments"]), set(words["counters"])
    for side, open_keys, every, shape in (
        ("file", board.unexpected, tuple(board.entries), board.saved),
        ("model", board.missing, tuple(k for k, p in board.params.items() if p.persistent), board.wanted),
    ):
        live = _live(every, segments, shape)
        for prefix, keys in _below(open_keys, segments).items():
            pairs = {}
            for key in keys:
                twin = live.get((_plain(_inside(key, prefix)), shape(key)))
                if twin is not None:
                    pairs[key] = twin
            extra = [k for k in keys if k not in pairs and k.rpartition(".")[2] in counters]
            # The counters of an average stand beside it as well as below it.
            owner = prefix.rstrip(".").rpartition(".")[0]
            extra += [
                k for k in open_keys if k not in keys and k.rpartition(".")[0] == owner and k.endswith("n_averaged")
            ]
            if len(pairs) >= 2 and len(pairs) >= _MOST * (len(keys) - len(set(extra) & set(keys))):
                taken = tuple(k for k in open_keys if k in pairs or k in extra)
                board.add(
                    Explanation(
                        kind="copy",
                        cause=words["cause"],
                        missing=taken if side == "model" else (),
                        unexpected=taken if side == "file" else (),
                        about={"side": side, "prefix": prefix.rstrip("."), "live": pairs},
                    )
                )


def match_averaged_only(board: Board) -> None:
    """A file that holds only the averaged copy, for a model that keeps only the live network, or the reverse."""
    words = data.load("key_patterns")["copies"]
    segments = set(words["segments"])
    wanted = (*board.missing, *board.filled)
    for side, open_keys, others, shape, other_shape in (
        ("file", board.unexpected, wanted, board.saved, board.wanted),
        ("model", wanted, board.unexpected, board.wanted, board.saved),
    ):
        live = _live(others, segments, other_shape)
        for prefix, keys in _below(open_keys, segments).items():
            twins = {key: live.get((_plain(_inside(key, prefix)), shape(key))) for key in keys}
            pairs = [(key, twin) if side == "file" else (twin, key) for key, twin in twins.items() if twin is not None]
            extra = [k for k in keys if twins[k] is None and k.rpartition(".")[2] in words["counters"]]
            if len(pairs) < 2 or len(pairs) < _MOST * (len(keys) - len(extra)) or len(set(twins.values())) < len(pairs):
                continue
            olds, news = [o for o, _ in pairs], [n for _, n in pairs]
            (olds if side == "file" else news).extend(extra)
            board.add(
                Explanation(
                    kind="wrapper",
                    cause=words["cause"],
                    missing=tuple(k for k in news if k in board.missing),
                    unexpected=tuple(k for k in olds if k in board.unexpected),
                    pairs=tuple(pairs),
                    about={
                        "extra": (prefix.rstrip("._"),) if side == "file" else (),
                        "lacking": (prefix.rstrip("._"),) if side == "model" else (),
                        "by": ("an averaged copy of the network",),
                    },
                )
            )


def _below(keys: Iterable[str], segments: set[str]) -> dict[str, list[str]]:
    """Keys by the prefix that ends with the first step that names a copy; it may be joined to the rest by ``_``."""
    out: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        steps = key.split(".")
        at = next((i for i, step in enumerate(steps[:-1]) if step in segments), None)
        if at is not None:
            out[".".join(steps[: at + 1]) + "."].append(key)
        elif len(steps) == 1:
            joined = max((s + "_" for s in segments if key.startswith(s + "_")), key=len, default="")
            if joined:
                out[joined].append(key)
    return out


def _inside(key: str, prefix: str) -> str:
    """A key without what names the copy, and without a wrapper around it."""
    return key[len(prefix) :].removeprefix("module.")


def _live(
    keys: Iterable[str], segments: set[str], shape: Callable[[str], Shape | None]
) -> dict[tuple[str, Shape | None], str]:
    """Keys outside of every copy, by all their ends: a copy may leave out the first steps, and the dots."""
    out: dict[tuple[str, Shape | None], str] = {}
    for key in keys:
        steps = key.split(".")
        if not segments.isdisjoint(steps):
            continue
        for start in range(min(len(steps), 4)):
            out.setdefault((_plain(".".join(steps[start:])), shape(key)), key)
    return out


def _plain(key: str) -> str:
    return _JOINTS.sub("", key)


def match_helpers(board: Board) -> None:
    """Networks that only training needs (perceptual loss, discriminator, teacher), of which one side has nothing."""
    words = data.load("key_patterns")["helper_networks"]
    pattern = re.compile(words["pattern"])
    for side, keys, present in (
        ("model", board.missing, board.entries.keys()),
        ("file", board.unexpected, {k for k, p in board.params.items() if p.persistent}),
    ):
        groups = {
            top: ks
            for top, ks in top_modules(keys, present).items()
            if top not in keys and pattern.search(top.rpartition(".")[2])
        }
        if groups:
            taken = tuple(k for ks in groups.values() for k in ks)
            board.add(
                Explanation(
                    kind="helper",
                    cause=words["cause"],
                    missing=taken if side == "model" else (),
                    unexpected=taken if side == "file" else (),
                    about={"side": side, "groups": groups},
                )
            )

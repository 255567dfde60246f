"""Low-rank adapters (LoRA and its kin, as PEFT names them) on one side only, or under another name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation


def match_adapters(board: Board) -> None:
    """Base weights that PEFT keeps one step deeper, and the adapters' own tensors.

    The names say what they are: ``base_layer`` holds the layer that is adapted, ``lora_A`` and the like the adapter.
    """
    names = data.load("key_patterns")["adapters"]
    own, inner, prefixes = set(names["tensors"]), set(names["inner"]), tuple(names["prefixes"])
    if not any(own.intersection(key.split(".")) for key in (*board.entries, *board.params)):
        return
    pairs = _base_pairs(board, own, inner, prefixes)
    paired = {k for pair in pairs for k in pair}
    renamed = _renamed_adapters(board, own, paired)
    paired |= {k for pair in renamed for k in pair}
    added = tuple(k for k in board.missing if k not in paired and own.intersection(k.split(".")))
    dropped = tuple(k for k in board.unexpected if k not in paired and own.intersection(k.split(".")))
    sizes = tuple(m for m in board.mismatched.values() if own.intersection(m.key.split(".")))
    alone = all(own.intersection(k.split(".")) for k in board.entries)
    if alone:  # the rest of the network was never meant to be in the file
        added = tuple(k for k in board.missing if k not in paired)
    if not (pairs or renamed or added or dropped or sizes):
        return
    merged = bool(pairs) and not renamed and not sizes
    every = [*pairs, *renamed]
    board.add(
        Explanation(
            kind="adapter",
            cause="merged-vs-unmerged-lora" if merged and not alone else "peft-lora-keys",
            missing=tuple(dict.fromkeys((*(n for _, n in every if n in board.missing), *added))),
            unexpected=tuple(dict.fromkeys((*(o for o, _ in every if o in board.unexpected), *dropped))),
            mismatched=sizes,
            pairs=tuple(every),
            about={
                "added": added,
                "dropped": dropped,
                "alone": alone,
                "base": tuple(pairs),
                "renamed": tuple(renamed),
                "peft": any(_is_of_peft(k, own, inner, prefixes) for k in (*board.entries, *board.params)),
            },
        )
    )


def _is_of_peft(key: str, own: set[str], inner: set[str], prefixes: tuple[str, ...]) -> bool:
    """Whether a key is one that PEFT makes; adapters that people write themselves have names of the same beginnings."""
    steps = key.split(".")
    at = next((i for i, step in enumerate(steps) if step in own), len(steps))
    return key.startswith(prefixes) or bool(inner.intersection(steps)) or len(steps) > at + 2


def _bare(key: str, inner: set[str], prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    return ".".join(step for step in key.split(".") if step not in inner)


def _base_pairs(board: Board, own: set[str], inner: set[str], prefixes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Base weights whose names differ only by what PEFT puts around them."""

    def plain(keys: Iterable[str]) -> list[str]:
        return [k for k in keys if not own.intersection(k.split("."))]

    wanted: dict[str, list[str]] = defaultdict(list)
    for key in plain((*board.missing, *board.filled)):
        wanted[_bare(key, inner, prefixes)].append(key)
    out = []
    for key in plain(board.unexpected):
        candidates = wanted.get(_bare(key, inner, prefixes), [])
        if len(candidates) == 1 and board.fits(key, candidates[0]):
            out.append((key, candidates[0]))
    return out


def _renamed_adapters(board: Board, own: set[str], taken: set[str]) -> list[tuple[str, str]]:
    """Adapters that go by another name: ``lora_A.default.weight`` and ``lora_A.weight``."""

    def bare(key: str) -> str:
        steps = key.split(".")
        at = next(i for i, step in enumerate(steps) if step in own)
        # Behind the adapter's kind stands its name, unless the tensor follows at once.
        return ".".join((*steps[: at + 1], steps[-1]) if len(steps) > at + 1 else steps)

    wanted: dict[str, list[str]] = defaultdict(list)
    for key in board.missing:
        if own.intersection(key.split(".")) and key not in taken:
            wanted[bare(key)].append(key)
    out = []
    for key in board.unexpected:
        if own.intersection(key.split(".")) and key not in taken:
            candidates = wanted.get(bare(key), [])
            if len(candidates) == 1 and board.fits(key, candidates[0]):
                out.append((key, candidates[0]))
    return out

"""Names that wrappers put into keys, and tensors that have two names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from relight.facts import data
from relight.facts.attribution.board import Board, Explanation, Shape


def match_wrappers(board: Board) -> None:
    """Segments that a wrapper inserts, anywhere in a key, on either side."""
    wrappers = {w["segment"]: w for w in data.load("key_patterns")["wrappers"]}
    bare_missing: dict[str, list[str]] = defaultdict(list)
    for key in (*board.missing, *board.filled):
        bare_missing[_without(key, wrappers)].append(key)
    pairs: list[tuple[str, str]] = []
    extra: dict[str, None] = {}
    lacking: dict[str, None] = {}
    for key in board.unexpected:
        bare = _without(key, wrappers)
        candidates = bare_missing.get(bare, [])
        if len(candidates) == 1 and board.fits(key, candidates[0]):
            pairs.append((key, candidates[0]))
            extra.update(dict.fromkeys(_surplus(key, candidates[0], wrappers)))
            lacking.update(dict.fromkeys(_surplus(candidates[0], key, wrappers)))
    if pairs:
        segments = (*extra, *lacking)
        cause = wrappers[segments[0]]["cause"] if len(segments) == 1 else "prefix-nested-wrappers"
        board.add(
            Explanation(
                kind="wrapper",
                cause=cause,
                missing=tuple(m for _, m in pairs if m in board.missing),
                unexpected=tuple(u for u, _ in pairs),
                pairs=tuple(pairs),
                about={
                    "extra": tuple(extra),
                    "lacking": tuple(lacking),
                    "by": tuple(dict.fromkeys(wrappers[s]["by"] for s in segments)),
                },
            )
        )


def _without(key: str, segments: Mapping[str, object]) -> str:
    return ".".join(s for s in key.split(".") if s not in segments)


def _surplus(key: str, other: str, segments: Mapping[str, object]) -> list[str]:
    theirs = other.split(".")
    return [s for s in dict.fromkeys(key.split(".")) if s in segments and key.split(".").count(s) > theirs.count(s)]


def match_attribute_prefix(board: Board) -> None:
    """All of one side sits one attribute deeper than the other: ``model.`` in front of every key."""
    if not board.unexpected or not board.missing:
        return
    wanted = dict.fromkeys((*board.missing, *board.filled))
    for source, other, deeper in ((board.unexpected, wanted, "file"), (wanted, board.unexpected, "model")):
        for prefix in _leading(source):
            pairs = []
            for key in source:
                if key.startswith(prefix) and key[len(prefix) :] in other:
                    old, new = (key, key[len(prefix) :]) if deeper == "file" else (key[len(prefix) :], key)
                    if board.fits(old, new):
                        pairs.append((old, new))
            # A prefix is a claim about a whole side; one lucky key would be a rename.
            if len(pairs) >= 2 and len(pairs) == min(len(board.unexpected), len(wanted)):
                board.add(
                    Explanation(
                        kind="wrapper",
                        cause="prefix-lightning-attribute",
                        missing=tuple(n for _, n in pairs if n in board.missing),
                        unexpected=tuple(o for o, _ in pairs),
                        pairs=tuple(pairs),
                        about={
                            "extra": (prefix.rstrip("."),) if deeper == "file" else (),
                            "lacking": (prefix.rstrip("."),) if deeper == "model" else (),
                            "by": ("an attribute that holds the network",),
                        },
                    )
                )
                return


def _leading(keys: Iterable[str]) -> list[str]:
    """Prefixes of one or two segments that all keys share with at least one other, longest last."""
    out: dict[str, None] = {}
    for key in keys:
        parts = key.split(".")
        for depth in (1, 2):
            if len(parts) > depth:
                out[".".join(parts[:depth]) + "."] = None
    return list(out)[:50]


def match_tied(board: Board) -> None:
    """One of two names of one tensor is absent or extra."""
    by_storage: dict[tuple[str, int, Shape], list[str]] = defaultdict(list)
    for entry in board.entries.values():
        if entry.storage_id is not None:
            by_storage[(entry.storage_id, entry.offset, entry.shape)].append(entry.key)
    surplus: dict[str, str] = {}
    for key in board.unexpected:
        extra = board.entries.get(key)
        if extra is None or extra.storage_id is None:
            continue
        twins = [k for k in by_storage[(extra.storage_id, extra.offset, extra.shape)] if k != key]
        twin = next((k for k in twins if k in board.params and board.fits(k, k)), None)
        if twin is not None:
            surplus[key] = twin
    lacking: dict[str, str] = {}
    for key in board.missing:
        param = board.params.get(key)
        twin = next((k for k in (param.tied_with if param else ()) if k in board.entries and board.fits(k, key)), None)
        if twin is not None:
            lacking[key] = twin
    # Where both sides have a second name of the same tensor, that name has changed.
    renamed = {*surplus.values()} & {*lacking.values()}
    for key, twin in surplus.items():
        if twin not in renamed:
            board.add(tied(unexpected=(key,), twin=twin))
    for key, twin in lacking.items():
        if twin not in renamed:
            board.add(tied(missing=(key,), twin=twin, pairs=((twin, key),)))


def tied(
    *,
    missing: tuple[str, ...] = (),
    unexpected: tuple[str, ...] = (),
    twin: str,
    pairs: tuple[tuple[str, str], ...] = (),
) -> Explanation:
    """The explanation of one of two names of one tensor.

    Args:
        missing: The name that the file lacks.
        unexpected: The name that the model lacks.
        twin: The other name of the tensor.
        pairs: (key in the file, key in the model) for what is missing.
    """
    return Explanation(
        kind="tied",
        cause="tied-weights-key",
        missing=missing,
        unexpected=unexpected,
        pairs=pairs,
        about={"twin": twin},
    )

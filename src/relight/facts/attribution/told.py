"""Names that the user told: what they say is settled, and nothing is guessed of those keys any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint
from relight.core.target import ModelSpec
from relight.facts.attribution.board import Board, Explanation
from relight.facts.describe import shape

Renames: TypeAlias = "tuple[tuple[str, str], ...]"


class Untrue(ValueError):
    """Names that cannot be meant: one of them is not there, or they contradict each other."""


def told_pairs(
    renames: Renames, checkpoint: Checkpoint, spec: ModelSpec
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The keys that each rename joins, (in the file, in the model).

    Args:
        renames: (name in the file, name in the model), each of a module or of one tensor.
        checkpoint: The file.
        spec: The model.

    Raises:
        Untrue: A name is not there, sizes differ, or two tensors get one name.
    """
    saved = {t.key: t.shape for t in checkpoint.tensors}
    wanted = {p.key: p.shape for p in spec.params}
    out: dict[tuple[str, str], list[tuple[str, str]]] = {rename: [] for rename in renames}
    # The longest name that fits a key is the one that is meant: encoder.proj before encoder.
    longest = sorted(renames, key=lambda r: -len(r[0]))
    for key in saved:
        for rename in longest:
            old, new = rename
            if key == old or key.startswith(f"{old}."):
                out[rename].append((key, new + key[len(old) :]))
                break
    for (old, new), pairs in out.items():
        if not pairs:
            raise Untrue(f"--rename {old}={new}: the checkpoint has no {old}{_close(old, saved)}")
        for key, name in pairs:
            if name not in wanted:
                raise Untrue(f"--rename {old}={new}: the model has no {name}{_close(new, wanted)}")
            if wanted[name] not in (None, saved[key]):
                sizes = f"{key} is {shape(saved[key])}, {name} is {shape(wanted[name] or ())}"
                raise Untrue(f"--rename {old}={new}: {sizes}")
    _need_room(out, saved)
    return out


def _need_room(found: Mapping[tuple[str, str], Sequence[tuple[str, str]]], saved: Mapping[str, object]) -> None:
    """No name may go to two tensors."""
    moved = {key for pairs in found.values() for key, _ in pairs}
    taken: dict[str, str] = {key: key for key in saved if key not in moved}
    for (old, new), pairs in found.items():
        for key, name in pairs:
            other = taken.setdefault(name, key)
            if other != key:
                why = f"the checkpoint has one already: say where it belongs, --rename {other}=..."
                if other != name:
                    why = f"{other} gets that name already"
                raise Untrue(f"--rename {old}={new}: {key} would be {name}, and {why}")


def _close(name: str, keys: Mapping[str, object]) -> str:
    known = dict.fromkeys(k[:end] for k in keys for end in (*(i for i, c in enumerate(k) if c == "."), len(k)))
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close and close[0] != name else ""


def match_told(board: Board, found: Mapping[tuple[str, str], Sequence[tuple[str, str]]]) -> None:
    """What the user told; a name that nothing of the file has any more is missing from now on.

    Args:
        board: What is open, which is all that differs.
        found: What `told_pairs` gave.
    """
    news = {new for pairs in found.values() for _, new in pairs}
    olds = {old for pairs in found.values() for old, _ in pairs}
    for (old, new), pairs in found.items():
        mine = {key for pair in pairs for key in pair}
        board.add(
            Explanation(
                kind="renamed",
                cause="module-renamed",
                missing=tuple(n for _, n in pairs if n in board.missing),
                unexpected=tuple(o for o, _ in pairs if o in board.unexpected),
                mismatched=tuple(m for k, m in board.mismatched.items() if k in mine and k in news | olds),
                pairs=tuple(pairs),
                about={"old": old, "new": new, "told": True},
            )
        )
    board.missing.update(dict.fromkeys(p.key for p in board.spec.persistent if p.key in olds - news))

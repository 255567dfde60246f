"""Values settle what shapes cannot: tensors of one size that only an order tells apart, and squares that may be turned.

Only the tensors that a mapping is unsure of are read, in chunks, and only from local files that hold them plainly.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import SourceError
from relight.facts.mapper.pairs import KeyMap, Pair
from relight.reader import values
from relight.reader.remote import is_url
from relight.reader.source import LocalSource

_BUDGET = 512 << 20  # bytes that are read for all questions together
_SQUARES = 1 << 24  # elements of squares that are added up, which is slower

Digest = bytes


class Values:
    """The values of one file, as far as they are asked for.

    Args:
        checkpoint: What the file holds.
        source: Its bytes.
        prefix: What stands in front of the keys that the mapping speaks of.
    """

    def __init__(self, checkpoint: Checkpoint, source: LocalSource, prefix: str = "") -> None:
        self._checkpoint, self._source, self._prefix = checkpoint, source, prefix
        self._entries = {t.key: t for t in checkpoint.tensors}
        self._digests: dict[str, Digest | None] = {}
        self._constant: set[str] = set()
        self._left = _BUDGET

    def entry(self, key: str) -> TensorEntry | None:
        """The tensor of a key."""
        return self._entries.get(self._prefix + key)

    def digest(self, key: str) -> Digest | None:
        """A digest of dtype, sizes and values; None where they cannot be read, or too much was read already."""
        if key not in self._digests:
            self._digests[key] = self._digest(key)
        return self._digests[key]

    def _digest(self, key: str) -> Digest | None:
        entry = self.entry(key)
        storage = None if entry is None else self._checkpoint.storages.get(entry.storage_id or "")
        if entry is None or storage is None or entry.dtype not in BY_NAME or not self._checkpoint.little_endian:
            return None
        self._left -= entry.numel * BY_NAME[entry.dtype].itemsize
        if self._left < 0:
            return None
        found = hashlib.blake2b(f"{entry.dtype}{entry.shape}".encode(), digest_size=16)
        size = BY_NAME[entry.dtype].itemsize
        first, constant = b"", True
        try:
            for chunk in values.chunks(self._source, entry, storage):
                found.update(chunk)
                first = first or chunk[:size]
                constant = constant and chunk == first * (len(chunk) // size)
        except (ValueError, OSError):
            return None
        if constant:
            self._constant.add(key)
        return found.digest()

    def telling(self, key: str) -> Digest | None:
        """A digest of values that are not all the same: those of a fresh bias are found everywhere."""
        digest = self.digest(key)
        return None if key in self._constant else digest

    def sums(self, key: str) -> tuple[list[float], list[float]] | None:
        """Sums of the rows and of the columns of a square, each added up in the order of its elements."""
        entry = self.entry(key)
        storage = None if entry is None else self._checkpoint.storages.get(entry.storage_id or "")
        if entry is None or storage is None or len(entry.shape) != 2 or entry.numel > _SQUARES:
            return None
        width = entry.shape[1]
        rows, columns = [0.0] * entry.shape[0], [0.0] * width
        at = 0
        try:
            for chunk in values.chunks(self._source, entry, storage):
                for value in values.decode(chunk, entry.dtype, little=self._checkpoint.little_endian):
                    rows[at // width] += value
                    columns[at % width] += value
                    at += 1
        except (ValueError, OSError, TypeError):
            return None
        return rows, columns


@contextmanager
def opened(checkpoint: Checkpoint | None, prefix: str = "") -> Iterator[Values | None]:
    """The values of a file; None where it is no local file."""
    if checkpoint is None or is_url(checkpoint.origin) or not checkpoint.storages:
        yield None
        return
    try:
        source = LocalSource(checkpoint.origin)
    except SourceError:
        yield None
        return
    try:
        yield Values(checkpoint, source, prefix)
    finally:
        source.close()


def unsure(found: KeyMap) -> bool:
    """Whether values could settle anything."""
    return any(
        p.confidence != "certain" and len(p.source) == 1 and p.op in ("copy", "transpose") for p in found.pairs.values()
    )


def settle(found: KeyMap, mine: Values, theirs: Values | None) -> KeyMap:
    """The mapping with what the values say.

    Args:
        found: The mapping.
        mine: Values of the checkpoint.
        theirs: Values of the other side, where it is a file as well.
    """
    pairs = dict(found.pairs)
    groups: dict[tuple[str, tuple[int, ...]], list[Pair]] = defaultdict(list)
    for p in pairs.values():
        entry = (
            mine.entry(p.source[0]) if len(p.source) == 1 and p.confidence == "ambiguous" and p.op == "copy" else None
        )
        if entry is not None:
            groups[entry.dtype, entry.shape].append(p)
    for (dtype, shape), members in groups.items():
        free = [k for k in found.leftover if (e := mine.entry(k)) is not None and (e.dtype, e.shape) == (dtype, shape)]
        candidates = list(dict.fromkeys((*(p.source[0] for p in members), *free)))
        changed = _same_values(members, candidates, mine, theirs) if theirs is not None else {}
        if not changed:
            changed = _whichever(members, candidates, mine)
        for target, pair in changed.items():
            if pair is None:
                pairs.pop(target, None)
            else:
                pairs[target] = pair
    if theirs is not None:
        for p in list(pairs.values()):
            turned = _turned(p, mine, theirs)
            if turned is not None:
                pairs[p.target] = turned
    if pairs == found.pairs:
        return found
    taken = {s for p in pairs.values() for s in p.source}
    every = dict.fromkeys((*(s for p in found.pairs.values() for s in p.source), *found.leftover))
    left = set(every) - taken
    return replace(
        found,
        pairs=pairs,
        initialised=(*found.initialised, *(t for t in found.pairs if t not in pairs)),
        leftover=tuple(k for k in every if k in left),
    )


def _same_values(
    members: Iterable[Pair], candidates: list[str], mine: Values, theirs: Values
) -> dict[str, Pair | None]:
    """Pairs by equal values; empty where the other file holds none of them: another training."""
    by_digest: dict[Digest, list[str]] = defaultdict(list)
    for key in candidates:
        digest = mine.telling(key)
        if digest is not None:
            by_digest[digest].append(key)
    hits = {p.target: by_digest.get(theirs.telling(p.target) or b"", []) for p in members}
    out: dict[str, Pair | None] = {}
    used: set[str] = set()
    reason = "the values are the same in both files"
    for p in sorted(members, key=lambda p: p.source[0] not in hits[p.target]):  # those that are right as they are first
        if hits[p.target]:
            own = [p.source[0]] if p.source[0] in hits[p.target] else []
            key = next((k for k in (*own, *hits[p.target]) if k not in used), hits[p.target][0])
            used.add(key)
            out[p.target] = replace(p, source=(key,), confidence="certain", reason=reason)
    if out:
        out.update({p.target: None for p in members if p.target not in out and p.source[0] in used})
    return out


def _whichever(members: list[Pair], candidates: list[str], mine: Values) -> dict[str, Pair | None]:
    """Pairs whose sources are all the same, so that it does not matter which is which."""
    if len(candidates) < 2:
        return {}
    digests = Counter(mine.digest(key) for key in candidates)
    if len(digests) > 1 or None in digests:
        return {}
    reason = f"the values are the same in all {len(candidates)} that it could be"
    return {p.target: replace(p, confidence="certain", reason=reason) for p in members}


def _turned(pair: Pair, mine: Values, theirs: Values) -> Pair | None:
    """A square pair with what sums of rows and columns say of it: as it is, or turned."""
    if len(pair.source) != 1 or pair.op not in ("copy", "transpose") or pair.confidence == "certain":
        return None
    entry, other = mine.entry(pair.source[0]), theirs.entry(pair.target)
    if entry is None or other is None or len(entry.shape) != 2 or entry.shape != other.shape:
        return None
    if entry.shape[0] != entry.shape[1] or entry.dtype != other.dtype:
        return None
    a, b = mine.sums(pair.source[0]), theirs.sums(pair.target)
    if a is None or b is None or a[0] == a[1]:
        return None
    if a == b:
        return replace(
            pair, op="copy", confidence="certain", reason="sums of rows and columns are the same in both files"
        )
    if a == (b[1], b[0]):
        reason = "the rows of one file add up to the columns of the other"
        return replace(pair, op="transpose", confidence="certain", reason=reason)
    return None

"""What differs between two checkpoints: keys, shapes, dtypes, hyper_parameters, versions, and values on request."""

from __future__ import annotations

import math
import operator
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.objects import Value
from relight.facts.brief import brief
from relight.facts.lightning import LightningView
from relight.reader import values
from relight.reader.remote import is_url
from relight.reader.source import LocalSource

# Item size to the code of an `array`.
_WORDS = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that both have and that differs.

    Attributes:
        name: Key, hyper_parameter or top-level entry.
        left: As the first file has it, in words.
        right: As the second file has it.
    """

    name: str
    left: str
    right: str

    def to_dict(self) -> dict[str, str]:
        """JSON form."""
        return {"name": self.name, "left": self.left, "right": self.right}


@dataclass(frozen=True, slots=True)
class ValueChange:
    """How much the values of one tensor differ.

    Attributes:
        key: The tensor.
        differing: Elements that are not bit-equal.
        numel: Of how many.
        largest: Largest absolute difference, None where it cannot be told (NaN against a number, packed types).
        relative: Norm of the difference over the norm of the first file's tensor, None where it cannot be told.
        unread: Why the values could not be compared, None if they were.
    """

    key: str
    differing: int
    numel: int
    largest: float | None = None
    relative: float | None = None
    unread: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "key": self.key,
            "differing": self.differing,
            "numel": self.numel,
            "largest": self.largest,
            "relative": self.relative,
            "unread": self.unread,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The comparison.

    Attributes:
        left: First file, as given.
        right: Second file, as given.
        removed: Keys that only the first has.
        added: Keys that only the second has.
        tensors: Keys whose shape, dtype or device differs.
        hyper_parameters: Names whose value differs; ``-`` stands for absent.
        about: Versions, epoch, step, layout, where they differ.
        same: Keys that are the same by description.
        values: Tensors whose values differ, None where values were not compared.
        values_equal: Tensors whose values are bit-equal.
    """

    left: str
    right: str
    removed: tuple[TensorEntry, ...] = ()
    added: tuple[TensorEntry, ...] = ()
    tensors: tuple[Change, ...] = ()
    hyper_parameters: tuple[Change, ...] = ()
    about: tuple[Change, ...] = ()
    same: int = 0
    values: tuple[ValueChange, ...] | None = None
    values_equal: int = 0

    @property
    def equal(self) -> bool:
        """Whether nothing differs, as far as it was compared."""
        return not (self.removed or self.added or self.tensors or self.hyper_parameters or self.about or self.values)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/diff/1``."""
        return {
            "schema": "relight/diff/1",
            "left": self.left,
            "right": self.right,
            "equal": self.equal,
            "removed": [_entry(t) for t in self.removed],
            "added": [_entry(t) for t in self.added],
            "tensors": [c.to_dict() for c in self.tensors],
            "hyper_parameters": [c.to_dict() for c in self.hyper_parameters],
            "about": [c.to_dict() for c in self.about],
            "same": self.same,
            "values": None if self.values is None else [v.to_dict() for v in self.values],
            "values_equal": self.values_equal,
        }


def _entry(t: TensorEntry) -> dict[str, Any]:
    return {"key": t.key, "dtype": t.dtype, "shape": list(t.shape)}


def compare(left: Checkpoint, right: Checkpoint, *, with_values: bool = False) -> Difference:
    """Compare two checkpoints.

    Args:
        left: The first.
        right: The second.
        with_values: Read the values of tensors that both have with the same shape and dtype, in chunks.
    """
    a = {t.key: t for t in (*left.tensors, *left.lost)}
    b = {t.key: t for t in (*right.tensors, *right.lost)}
    changed = [Change(k, _words(a[k]), _words(b[k])) for k in a if k in b and _words(a[k]) != _words(b[k])]
    alike = [k for k in a if k in b and a[k].shape == b[k].shape and a[k].dtype == b[k].dtype]
    compared = tuple(_values(left, right, [(a[k], b[k]) for k in alike])) if with_values else None
    return Difference(
        left=left.origin,
        right=right.origin,
        removed=tuple(t for k, t in a.items() if k not in b),
        added=tuple(t for k, t in b.items() if k not in a),
        tensors=tuple(changed),
        hyper_parameters=tuple(
            _changes(dict(LightningView(left).hyper_parameters), dict(LightningView(right).hyper_parameters))
        ),
        about=tuple(_about(left, right)),
        same=sum(1 for k in a if k in b) - len(changed),
        values=None if compared is None else tuple(v for v in compared if v.differing or v.unread),
        values_equal=0 if compared is None else sum(1 for v in compared if not v.differing and not v.unread),
    )


def _words(t: TensorEntry) -> str:
    device = "" if t.device == "cpu" else f" on {t.device}"
    return f"[{', '.join(map(str, t.shape))}] {t.dtype}{device}"


def _changes(left: Mapping[str, Value], right: Mapping[str, Value]) -> Iterator[Change]:
    for name in (*left, *(n for n in right if n not in left)):
        a = brief(left[name]) if name in left else "-"
        b = brief(right[name]) if name in right else "-"
        if a != b:
            yield Change(name, a, b)


def _about(left: Checkpoint, right: Checkpoint) -> Iterator[Change]:
    a, b = LightningView(left), LightningView(right)
    rows: tuple[tuple[str, object, object], ...] = (
        ("damage", _damage(left), _damage(right)),
        ("layout", left.layout.value, right.layout.value),
        ("lightning", a.version, b.version),
        ("epoch", a.epoch, b.epoch),
        ("global_step", a.global_step, b.global_step),
        ("state_dict", left.state_dict_path, right.state_dict_path),
        ("optimizers", [f for f, _ in a.optimizer_entries], [f for f, _ in b.optimizer_entries]),
    )
    for name, x, y in rows:
        if str(x) != str(y):
            yield Change(name, "-" if x in (None, []) else str(x), "-" if y in (None, []) else str(y))


def _damage(checkpoint: Checkpoint) -> str | None:
    return next((p.message for p in checkpoint.problems if p.fatal), None)


def _values(left: Checkpoint, right: Checkpoint, pairs: list[tuple[TensorEntry, TensorEntry]]) -> Iterator[ValueChange]:
    remote = next((c.origin for c in (left, right) if is_url(c.origin)), None)
    folder = next((c.origin for c in (left, right) if os.path.isdir(c.origin)), None)
    if remote is not None or folder is not None:
        reason = f"{remote} is remote, and values are not fetched" if remote else f"{folder} is a folder"
        for a, _ in pairs:
            yield ValueChange(a.key, 0, a.numel, unread=reason)
        return
    with _opened(left.origin) as one, _opened(right.origin) as two:
        for a, b in pairs:
            try:
                yield _compare(left, right, one, two, a, b)
            except ValueError as error:
                yield ValueChange(a.key, 0, a.numel, unread=str(error))


class _opened:
    """A local source as a context."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.source = LocalSource(path)

    def __enter__(self) -> LocalSource:
        return self.source

    def __exit__(self, *exception: object) -> None:
        self.source.close()


def _compare(
    left: Checkpoint, right: Checkpoint, one: LocalSource, two: LocalSource, a: TensorEntry, b: TensorEntry
) -> ValueChange:
    first, second = left.storages.get(a.storage_id or ""), right.storages.get(b.storage_id or "")
    if first is None or second is None:
        raise ValueError("the values are not plainly in the file")
    differing = 0
    largest = squares = norm = 0.0
    known = True
    size = BY_NAME[a.dtype].itemsize
    for x, other in zip(values.chunks(one, a, first), values.chunks(two, b, second), strict=True):
        # Bytes in the order of the first file, so that files of both orders compare equal where their values do.
        y = other if left.little_endian == right.little_endian else _swapped(other, a.dtype)
        if x == y:
            norm += _norm(x, a.dtype, left.little_endian)
            continue
        differing += _differing(x, y, size)
        try:
            u = values.decode(x, a.dtype, little=left.little_endian)
            v = values.decode(y, a.dtype, little=left.little_endian)
        except ValueError:
            known = False
            continue
        for p, q in zip(u, v, strict=True):
            if p != q and not (p != p and q != q):
                delta = abs(float(p) - float(q))
                if math.isfinite(delta):
                    largest = max(largest, delta)
                    squares += delta * delta
                else:
                    known = False
        norm += _norm(x, a.dtype, left.little_endian)
    relative = math.sqrt(squares / norm) if known and norm and math.isfinite(squares) and math.isfinite(norm) else None
    return ValueChange(
        a.key, differing, a.numel, largest if known and differing else None, relative if differing else None
    )


def _swapped(raw: bytes, dtype: str) -> bytes:
    """The same elements in the other byte order; the parts of a complex one keep their places."""
    size = BY_NAME[dtype].itemsize // (2 if dtype.startswith("complex") else 1)
    out = bytearray(len(raw))
    for at in range(size):
        out[at::size] = raw[size - 1 - at :: size]
    return bytes(out)


def _differing(x: bytes, y: bytes, size: int) -> int:
    """How many elements are not bit-equal."""
    if size in _WORDS:
        return sum(map(operator.ne, array(_WORDS[size], x), array(_WORDS[size], y)))
    return sum(x[at : at + size] != y[at : at + size] for at in range(0, len(x), size))


def _norm(raw: bytes, dtype: str, little: bool) -> float:
    try:
        numbers = values.decode(raw, dtype, little=little)
    except ValueError:
        return 0.0
    return values.sum_of(float(n) * float(n) for n in numbers if math.isfinite(n))

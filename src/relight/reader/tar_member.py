"""Members of a tar archive, and reading one from front to end as torch before 0.1.10 wrote it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from relight.core.checkpoint import Pickled, Problem, ProblemKind, Record, Span
from relight.reader.limits import Limits
from relight.reader.nested import Finder
from relight.reader.pickle_vm import Decoded, decode
from relight.reader.source import ByteSource

_BLOCK = 512
_WINDOW = 4096
_NUMBERS = 8


def members(source: ByteSource, limit: int) -> dict[str, Record]:
    """Members of a tar archive, by name."""
    return {record.name: record for record in _walk(source, limit)}


def _walk(source: ByteSource, limit: int) -> Iterator[Record]:
    position = 0
    while limit > 0 and position + _BLOCK <= source.size:
        limit -= 1
        header = source.read(position, _BLOCK)
        if not any(header):
            return
        try:
            size = int(header[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            return
        name = header[:100].split(b"\0")[0].decode("utf-8", "replace").removeprefix("./")
        yield Record(name, Span(position + _BLOCK, size), size)
        if size < 0:
            return
        position += _BLOCK + -(-size // _BLOCK) * _BLOCK


@dataclass(slots=True)
class Member:
    """Reads a member from front to end: pickles and numbers in turn."""

    source: ByteSource
    record: Record
    order: str
    limits: Limits
    finder: Finder
    position: int = 0
    problems: list[Problem] = field(default_factory=list)
    parts: list[Decoded] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Bytes of the member that were not read yet."""
        return max(min(self.record.size, self.source.size - self.record.span.start) - self.position, 0)

    def pickle(self) -> Decoded | None:
        """The next pickle; None, and a problem, where there is no whole one."""
        window = _WINDOW
        while True:
            # Most are a hundred bytes; growing by steps keeps many large ones from being read many times.
            data = self.source.read(self.record.span.start + self.position, min(window, self.left))
            part = decode(data, limits=self.limits, record=self.record.name)
            if part.stream.end is not None or window >= min(self.left, self.limits.pickle_bytes):
                break
            window *= 8
        self.parts.append(part)
        self.finder.inside(part, self.record.name)
        if part.stream.end is None:
            self.problem(f"the list of {self.record.name} breaks off")
            return None
        self.position += part.stream.end
        return part

    def count(self) -> int:
        """The number of things that a member lists, which it starts with; 0, and a problem, where there is none."""
        part = self.pickle()
        if part is None:
            return 0
        if type(part.value) is not int or part.value < 0:
            self.nonsense(f"the number of {self.record.name} is no count")
            return 0
        if part.value > self.limits.tensors:
            self.limit(f"{part.value:,} {self.record.name} are announced", "tensors")
            return 0
        return part.value

    def numbers(self, count: int) -> tuple[int, ...] | None:
        """The next integers of eight bytes; None, and a problem, where the member ends before."""
        data = self.source.read(self.record.span.start + self.position, min(count * _NUMBERS, self.left))
        if len(data) < count * _NUMBERS:
            self.problem(f"the list of {self.record.name} breaks off")
            return None
        self.position += len(data)
        return struct.unpack(f"{self.order}{count}q", data)

    def problem(self, message: str, kind: ProblemKind = ProblemKind.TRUNCATED) -> None:
        """Something that torch, too, could not read on after."""
        self.problems.append(Problem(kind=kind, message=message, fatal=True, record=self.record.name))

    def nonsense(self, message: str) -> None:
        """Whole, and not what torch writes."""
        self.problem(message, ProblemKind.PICKLE_MALFORMED)

    def limit(self, message: str, what: str) -> None:
        """A limit of this reader was reached."""
        self.problems.append(
            Problem(kind=ProblemKind.LIMIT, message=message, fatal=True, what=what, record=self.record.name)
        )

    def pickled(self) -> Pickled:
        """All pickles of the member as one stream of a checkpoint: there can be thousands."""
        return Pickled(
            where=self.record.name,
            root=tuple(part.value for part in self.parts),
            globals=tuple({g.stored: g for part in self.parts for g in part.globals}.values()),
            calls=tuple(c for part in self.parts for c in part.calls),
            persistents=tuple(p for part in self.parts for p in part.persistents),
            sightings=tuple(s for part in self.parts for s in part.sightings),
            whole=all(part.stream.end is not None for part in self.parts),
        )

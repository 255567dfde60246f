"""What was read from a checkpoint, as immutable values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from relight.core.objects import Call, Global, ObjectPath, Persistent, Value

_NOTEBOOK_ROWS = 30


class Layout(str, Enum):
    """How the whole thing is stored."""

    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    TORCH_TAR = "torch-tar"
    PICKLE = "pickle"
    TORCHSCRIPT = "torchscript"
    SAFETENSORS = "safetensors"
    SHARDED = "sharded"  # a folder with an index and shards
    DCP = "dcp"  # a folder that torch.distributed.checkpoint wrote
    DEEPSPEED = "deepspeed"  # a folder that DeepSpeed wrote
    DIRECTORY = "directory"
    NOT_A_CHECKPOINT = "not-a-checkpoint"


class ProblemKind(str, Enum):
    """The closed list of ways in which bytes can be wrong. A rule words each of them."""

    EMPTY = "empty"
    ALL_ZERO = "all-zero"
    NOT_A_CHECKPOINT = "not-a-checkpoint"  # `Problem.what` names what it is
    NO_CENTRAL_DIRECTORY = "no-central-directory"  # starts as a zip, has no usable end: cut off
    TRUNCATED = "truncated"  # legacy or other stream that ends early
    ARCHIVE_MALFORMED = "archive-malformed"
    ARCHIVE_AMBIGUOUS = "archive-ambiguous"  # two readers could see different bytes
    ENCRYPTED = "encrypted"
    COMPRESSED_RECORDS = "compressed-records"  # readable, but not by mmap
    BYTES_BEFORE = "bytes-before"
    BYTES_AFTER = "bytes-after"
    RECORD_MISSING = "record-missing"
    RECORD_SHORT = "record-short"
    CRC_MISMATCH = "crc-mismatch"
    PICKLE_MALFORMED = "pickle-malformed"
    TENSOR_OUT_OF_BOUNDS = "tensor-out-of-bounds"
    LIMIT = "limit"  # a limit of the reader was reached; `Problem.what` names it
    UNSUPPORTED = "unsupported"  # a real format whose contents this version does not read; `Problem.what` names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with the bytes, as a value: the reader never raises for what a file holds.

    Attributes:
        kind: Which of the known ways.
        message: One line that says what was expected and what was there.
        fatal: Whether torch, too, would get nothing out of the file.
        what: Finer identity: what a non-checkpoint really is (``html``, ``git-lfs-pointer``...), or which limit.
        record: Name of the archive record concerned.
        position: Byte offset in the file, or in the record where one is named.
        details: Facts that a message is built from (``expected``, ``found``, ``sha256`` ...).
    """

    kind: ProblemKind
    message: str
    fatal: bool = False
    what: str | None = None
    record: str | None = None
    position: int | None = None
    details: Mapping[str, str | int] = field(default_factory=dict)


# Files have hundreds of thousands of the next four: named tuples, since making a frozen dataclass takes four times as long.


class Span(NamedTuple):
    """A byte range of the file: ``[start, start + length)``."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """First byte after the range."""
        return self.start + self.length


class Record(NamedTuple):
    """A named byte range inside the archive.

    Attributes:
        name: Without the archive's root folder: ``data/0``, ``data.pkl``.
        span: The stored bytes.
        size: Bytes after inflating; equal to ``span.length`` for stored records.
        compressed: Whether the bytes are deflated.
        crc32: As recorded, None where the writer did not record one.
    """

    name: str
    span: Span
    size: int
    compressed: bool = False
    crc32: int | None = None


class StorageEntry(NamedTuple):
    """A flat typed buffer that tensors are views on.

    Attributes:
        id: The storage's key in the file (``"0"``).
        dtype: Element type by name; ``uint8`` for untyped storages.
        device: Location tag: ``cpu``, ``cuda:0``, ``mps``, ``xla:0``.
        numel: Elements the pickle claims.
        nbytes: ``numel`` in bytes.
        span: Where the bytes are, None when they are not in the file.
    """

    id: str
    dtype: str
    device: str
    numel: int
    nbytes: int
    span: Span | None


class TensorEntry(NamedTuple):
    """A tensor as described by the file; its values are not read.

    Attributes:
        key: Its name in the state_dict.
        dtype: Element type by name.
        shape: Sizes.
        stride: Strides in elements.
        offset: First element, in elements, within the storage.
        storage_id: Which storage, None for tensors without one (meta, or built from a numpy array).
        device: Location tag of the storage.
        path: Where it sits in the file's objects.
        layout: ``strided``, ``sparse``, ``quantized``, ``meta``, ``numpy`` or ``subclass``.
        parameter: True where the file says that it is an ``nn.Parameter``.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage_id: str | None
    device: str
    path: ObjectPath
    layout: str = "strided"
    parameter: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What one pickle stream used, for predicting what other unpicklers do with it.

    Attributes:
        protocol: From the PROTO opcode, 0 where there is none.
        opcodes: Distinct opcode bytes with the offset of the first use, in order of first use.
        end: Offset after STOP; None if the stream ended before.
    """

    protocol: int
    opcodes: Mapping[int, int]
    end: int | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something in a pickle stream that no honest writer puts there, seen as its opcodes went by.

    Attributes:
        what: In words.
        position: Byte offset in the stream.
    """

    what: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pickled:
    """One pickle stream of the file, with everything that following it would construct.

    A file can hold more streams than the one that loading reads: a second ``data.pkl``, the small pickles of the
    legacy layout, pickles inside byte strings, the files of a folder.

    Attributes:
        where: Where it is, in words; empty for the stream of `Checkpoint.root`.
        root: The pickled object, None if the stream breaks before its end.
        globals: Every name, in order of first use.
        calls: Everything that would be constructed, in order, also what the stream throws away again.
        persistents: Persistent ids, in order.
        sightings: What no honest writer does.
        whole: Whether the stream reaches its STOP.
    """

    where: str
    root: Value
    globals: tuple[Global, ...]
    calls: tuple[Call, ...]
    persistents: tuple[Persistent, ...]
    sightings: tuple[Sighting, ...]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Checkpoint:
    """Everything that reading a checkpoint without executing it can tell.

    Attributes:
        origin: Path or URL as given.
        nbytes: Size of the file.
        layout: How it is stored.
        records: Records of the archive (zip), in directory order; empty otherwise.
        folder: The folder inside the archive that holds them: torch names it after the file, or ``archive``.
        storages: By id, every storage that the pickle refers to.
        root: The pickled object, None if it could not be read.
        globals: Every name that the pickle refers to, in file order.
        stream: Facts on the pickle stream of ``root``; None if there is none.
        state_dict_path: Where the model's tensors sit (``$`` for a plain state_dict), None if nothing looks like one.
        tensors: Tensors of that state_dict whose values are all in the file, in file order.
        lost: Tensors of that state_dict that are described well, but whose values are not all there.
        refused: Why a key's values cannot be given out: for those in ``lost``, and for those that are not described
            in a way that makes sense.
        extra_keys: Keys of that state_dict whose value is not a tensor (``_extra_state`` ...).
        metadata: ``_metadata`` of the state_dict: module path to version; None where it is absent.
        pickles: Every pickle stream of the file; that of ``root`` comes first.
        little_endian: Byte order of the values.
        files: Of a folder, the files that belong to the checkpoint, by relative path.
        problems: What is wrong with the bytes, in order of discovery.
        bytes_read: How much of the file was read to tell all this.
    """

    origin: str
    nbytes: int
    layout: Layout
    records: tuple[Record, ...] = ()
    folder: str = ""
    storages: Mapping[str, StorageEntry] = field(default_factory=dict)
    root: Value = None
    globals: tuple[Global, ...] = ()
    stream: StreamFacts | None = None
    state_dict_path: ObjectPath | None = None
    tensors: tuple[TensorEntry, ...] = ()
    lost: tuple[TensorEntry, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    extra_keys: tuple[str, ...] = ()
    metadata: Mapping[str, int | None] | None = None
    pickles: tuple[Pickled, ...] = ()
    little_endian: bool = True
    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    bytes_read: int = 0

    @property
    def readable(self) -> bool:
        """Whether the pickled object was read at all."""
        if self.layout in (Layout.SHARDED, Layout.DCP, Layout.DEEPSPEED):
            return bool(self.tensors)
        return self.stream is not None or self.layout is Layout.SAFETENSORS

    def _repr_html_(self) -> str:
        """What a notebook shows: one line on the file, and its first tensors."""
        from html import escape

        rows = "".join(
            f"<tr><td><code>{escape(t.key)}</code></td><td>{escape(str(list(t.shape)))}</td>"
            f"<td>{escape(t.dtype)}</td><td>{escape(t.device)}</td></tr>"
            for t in self.tensors[:_NOTEBOOK_ROWS]
        )
        more = len(self.tensors) - _NOTEBOOK_ROWS
        rest = f"<p>... {more:,} more tensors</p>" if more > 0 else ""
        problems = "".join(f"<li>{escape(p.message)}</li>" for p in self.problems[:10])
        return (
            f"<p><b>{escape(self.origin)}</b>: {escape(self.layout.value)}, {self.nbytes:,} bytes, "
            f"{len(self.tensors):,} tensors</p>"
            + (f"<ul>{problems}</ul>" if problems else "")
            + (
                "<table><tr><th>key</th><th>shape</th><th>dtype</th><th>device</th></tr>" + rows + "</table>" + rest
                if rows
                else ""
            )
        )

    def __repr__(self) -> str:
        return (
            f"Checkpoint({self.origin!r}, {self.layout.value}, {self.nbytes:,} bytes, {len(self.tensors):,} tensors, "
            f"{len(self.problems)} problems)"
        )

    def problems_of(self, *kinds: ProblemKind) -> Iterator[Problem]:
        """Problems of the given kinds."""
        return (p for p in self.problems if p.kind in kinds)

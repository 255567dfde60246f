"""Limits of the reader: a file may exhaust its own budget, never the machine's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What reading may cost at most. Reaching one is a `Problem` that names it, never silence.

    Attributes:
        pickle_bytes: Bytes of one pickle stream, after inflating.
        inflate_ratio: Inflated to stored size, above 1 MiB.
        opcodes: Opcodes of one stream.
        seconds: Wall time of one stream; asked every 4096 opcodes.
        stack: Values on the stack.
        marks: Open marks.
        memo: Memo entries.
        nesting: Depth of containers inside containers.
        argument_bytes: Bytes of one string, bytes or integer argument.
        integer_bytes: Bytes of one integer.
        name_bytes: Bytes of one global name.
        names: Distinct names of one stream.
        records: Records of an archive.
        directory_bytes: Bytes of an archive's directory.
        header_bytes: Bytes of a safetensors header.
        tensors: Tensors of one file.
        rank: Dimensions of one tensor.
        expanded_bytes: Bytes of a tensor that is larger than the storage it lies on.
        verified_bytes: Files up to here are read in whole, to compare the checksums of all their records.
        index_bytes: Indices of one sparse tensor, which are read to check that they lie within its shape.
        nested_bytes: Bytes of a pickle inside a pickle.
        nested_depth: Pickles inside pickles inside pickles.
        streams: Pickle streams of one file besides the main one.
        shards: Files of a folder.
    """

    pickle_bytes: int = 256 << 20
    inflate_ratio: int = 200
    opcodes: int = 20_000_000
    seconds: float = 120.0
    stack: int = 1_000_000
    marks: int = 1000
    memo: int = 2_000_000
    nesting: int = 1000
    argument_bytes: int = 64 << 20
    integer_bytes: int = 4096
    name_bytes: int = 1024
    names: int = 10_000
    records: int = 200_000
    directory_bytes: int = 64 << 20
    header_bytes: int = 100 << 20
    tensors: int = 2_000_000
    rank: int = 64
    expanded_bytes: int = 4 << 30
    verified_bytes: int = 1 << 20
    index_bytes: int = 64 << 20
    nested_bytes: int = 16 << 20
    nested_depth: int = 3
    streams: int = 64
    shards: int = 10_000


DEFAULT_LIMITS = Limits()

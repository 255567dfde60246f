"""What must hold for any bytes: honest pickles are described as they are, and nothing makes the reader raise or act.

``RELIGHT_PROPERTIES=long`` runs many more examples.
"""

from __future__ import annotations

import os
import pickle  # noqa: TID251 (the standard pickler writes the honest input)
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.core.checkpoint import Checkpoint
from relight.core.objects import Call, DictNode, ListNode, SetNode, Value, mapping_pairs
from relight.reader.detect import read
from relight.reader.pickle_vm import decode
from relight.reader.source import MemorySource
from relight.rulekit import File
from relight.testing.recipes import contents

CORPUS = Path(__file__).parents[1] / "corpus" / "reader"
LONG = os.environ.get("RELIGHT_PROPERTIES") == "long"


def few(examples: int) -> settings:
    return settings(
        max_examples=examples * (50 if LONG else 1),
        deadline=None,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )


# ---------------------------------------------------------------- honest objects

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(allow_nan=False), st.text(),
    st.binary(),
)  # fmt: skip
keys = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), st.tuples, max_leaves=4)
graphs = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(keys, inner, max_size=5),
        st.dictionaries(keys, inner, max_size=5).map(OrderedDict),
        st.frozensets(keys, max_size=4),
        st.sets(keys, max_size=4),
    ),
    max_leaves=25,
)


def rebuilt(value: Value) -> object:
    """The object that a description stands for; knows the calls that the standard pickler makes for plain data."""
    if isinstance(value, ListNode):
        return [rebuilt(v) for v in value.items]
    if isinstance(value, tuple):
        return tuple(rebuilt(v) for v in value)
    if isinstance(value, SetNode):
        return (frozenset if value.frozen else set)(rebuilt(v) for v in value.items)
    if isinstance(value, DictNode):
        return {rebuilt(k): rebuilt(v) for k, v in value.pairs}
    if isinstance(value, Call):
        if value.name == "_codecs.encode":
            text = value.args[0]
            assert isinstance(text, str)
            return text.encode("latin-1")
        if value.name == "builtins.bytes":
            return b""
        if value.name in ("builtins.set", "builtins.frozenset"):
            items = rebuilt(value.args[0])
            assert isinstance(items, list)
            return (set if value.name == "builtins.set" else frozenset)(items)
        assert value.name == "collections.OrderedDict"
        return OrderedDict((rebuilt(k), rebuilt(v)) for k, v in mapping_pairs(value) or ())
    return value


@few(150)
@given(value=graphs, protocol=st.integers(0, 5))
def test_honest_objects_are_described_as_they_are(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    decoded = decode(data)
    assert not decoded.problems
    assert decoded.stream.end == len(data)
    assert rebuilt(decoded.value) == value


@few(60)
@given(value=graphs, protocol=st.integers(0, 5), cut=st.floats(0, 0.999))
def test_a_pickle_that_breaks_off_is_never_whole(value: object, protocol: int, cut: float) -> None:
    data = pickle.dumps(value, protocol)
    decoded = decode(data[: int(len(data) * cut)])
    assert decoded.problems
    assert decoded.stream.end is None


# ---------------------------------------------------------------- dishonest bytes

_FORBIDDEN = ("exec", "compile", "import", "pickle.", "marshal.", "ctypes.", "subprocess.", "socket.", "os.system",
              "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "shutil.", "urllib.")  # fmt: skip
_watching = False
_seen: list[str] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        mode, flags = args[1], args[2]
        writes = isinstance(mode, str) and any(m in mode for m in "wax+")
        if writes or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            _seen.append(f"open {args[0]!r} for writing")
    elif event.startswith(_FORBIDDEN):
        _seen.append(f"{event} {args!r}"[:200])


sys.addaudithook(_hook)  # stays for good, so that it looks only while it is asked to


@contextmanager
def watched() -> Iterator[None]:
    """Nothing that runs inside may execute, import or write anything."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _seen


SEEDS = [
    contents(File()),
    contents(File(legacy=True)),
    contents(File(hparams={"lr": 0.1, "names": ["a", "b"]}, metadata={"": 1})),
    *(p.read_bytes() for p in sorted(CORPUS.glob("checkpoints/*.ckpt"))),
    *(p.read_bytes() for p in sorted(CORPUS.glob("broken/*"))),
]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Modules that the reader imports late, and codecs, are there before anybody looks."""
    for seed in SEEDS:
        read(MemorySource(seed))
    for stream in (b"Vx\n.", b"S'x'\n.", b"Pabc\n.", b"c__builtin__\nint\n.", b"X\x01\x00\x00\x00\xff.", b"Vx\\u1\n."):
        decode(stream)
    read(MemorySource(b"\x05\0\0\0\0\0\0\0{bad}"))


def sound(checkpoint: Checkpoint, size: int) -> None:
    """What anything that was read must satisfy."""
    for t in checkpoint.tensors:
        storage = checkpoint.storages.get(t.storage_id or "")
        if storage is not None and storage.span is not None and not any(p.fatal for p in checkpoint.problems):
            assert storage.span.end <= size
    for p in checkpoint.problems:
        assert p.message


def read_watched(data: bytes) -> None:
    source = MemorySource(data)
    with watched():
        checkpoint = read(source)
    sound(checkpoint, len(data))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file with a few bytes changed, a part removed, repeated, or moved."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("byte", "byte", "byte", "number", "cut", "drop", "repeat", "insert")))
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 64))
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "number":
            data[at : at + 4] = draw(st.sampled_from((b"\xff" * 4, bytes(4), b"\0\0\0\x80", b"\xfe\xff\xff\x7f")))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
    return bytes(data)


@few(400)
@given(data=mutated())
def test_a_changed_file_makes_the_reader_neither_raise_nor_act(data: bytes) -> None:
    read_watched(data)


# Opcodes with arguments that fit: far more of the machine is reached than by random bytes.
_lengths = st.binary(max_size=20)
opcodes = st.one_of(
    st.sampled_from([bytes([b]) for b in b"(.012NR\x85\x86\x87\x88\x89)]}aesudlto\x81\x92\x93\x94b\x8f\x90\x91Q\x98\x97"]),
    st.integers(0, 255).map(lambda i: b"K" + bytes([i])),
    st.integers(0, 5).map(lambda i: b"q" + bytes([i])),
    st.integers(0, 5).map(lambda i: b"h" + bytes([i])),
    st.integers(0, 2**32 - 1).map(lambda i: b"r" + i.to_bytes(4, "little")),
    _lengths.map(lambda b: b"X" + len(b).to_bytes(4, "little") + b),
    _lengths.map(lambda b: b"U" + bytes([len(b)]) + b),
    _lengths.map(lambda b: b"C" + bytes([len(b)]) + b),
    _lengths.map(lambda b: b"\x8a" + bytes([len(b)]) + b),
    st.sampled_from([b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"(ios\nsystem\n",
                     b"\x82\x01", b"I01\n", b"F1\n", b"S'x'\n", b"Vx\n", b"Pabc\n", b"p0\n", b"g0\n", b"L5L\n",
                     b"\x80\x02", b"\x80\x04", b"\x95" + bytes(8)]),
)  # fmt: skip


@few(300)
@given(parts=st.lists(opcodes, max_size=60))
def test_any_opcodes_make_the_machine_neither_raise_nor_act(parts: list[bytes]) -> None:
    data = b"".join(parts)
    with watched():
        decoded = decode(data)
    assert (decoded.stream.end is None) == bool(decoded.problems)


@few(100)
@given(data=st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    read_watched(data)


@pytest.mark.parametrize("seed", range(0, len(SEEDS), 4))
def test_every_place_where_a_file_can_break_off(seed: int) -> None:
    data = SEEDS[seed]
    for end in range(0, len(data), max(len(data) // 60, 1)):
        read_watched(data[:end])

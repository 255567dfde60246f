"""What must hold for any bytes: honest pickles are described as they are, and nothing makes the reader raise or act.

``RELIGHT_PROPERTIES=long`` runs many more examples.
"""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251 (the standard pickler writes the honest input)
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.core.checkpoint import Checkpoint, Layout, ProblemKind
from relight.core.objects import Call, DictNode, ListNode, SetNode, Value, mapping_pairs
from relight.core.target import Environment
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.facts.question import Question
from relight.reader.detect import open_checkpoint, read
from relight.reader.limits import Limits
from relight.reader.pickle_vm import decode
from relight.reader.source import MemorySource
from relight.report import inspect_json, inspect_text, text
from relight.report.layout import Style
from relight.rulekit import File, Model
from relight.rulekit.registry import all_rules
from relight.testing.harness import target_of
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
@given(inner=graphs, protocol=st.integers(0, 5), times=st.integers(2, 4))
def test_what_is_used_twice_is_one_object(inner: object, protocol: int, times: int) -> None:
    box = [inner]
    data = pickle.dumps([box] * times, protocol)
    decoded = decode(data)
    assert rebuilt(decoded.value) == pickle.loads(data)
    assert isinstance(decoded.value, ListNode)
    assert len({id(item) for item in decoded.value.items}) == 1


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


_SECONDS = 10.0  # files of a few kilobytes take milliseconds: this is what a busy machine may add


def read_watched(data: bytes) -> Checkpoint:
    source = MemorySource(data)
    began = time.perf_counter()
    with watched():
        checkpoint = read(source)
    assert time.perf_counter() - began < _SECONDS
    # Each byte is read a few times at most: to tell what it is, to follow it, to compare its checksum.
    assert source.bytes_read <= 40 * len(data) + (1 << 16)
    sound(checkpoint, len(data))
    return checkpoint


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file with a few bytes changed, a part removed, repeated, or moved."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("byte", "byte", "bit", "number", "cut", "drop", "repeat", "insert", "splice")))
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 64))
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "splice":  # the front of one file, the end of another
            other = draw(st.sampled_from(SEEDS))
            data[at:] = other[draw(st.integers(0, max(len(other) - 1, 0))) :]
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


def zipped(program: bytes) -> bytes:
    """A torch archive around a pickle, with one storage."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (
            ("data.pkl", program),
            ("byteorder", b"little"),
            ("data/0", bytes(64)),
            ("version", b"3"),
        ):
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def stacked(program: bytes) -> bytes:
    """The layout before 1.6 around a pickle."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}})
    return b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps(["0"], 2) + bytes(72)


@few(200)
@given(parts=st.lists(opcodes, max_size=60), around=st.sampled_from((zipped, stacked, bytes)))
def test_random_programs_in_a_file(parts: list[bytes], around: Callable[[bytes], bytes]) -> None:
    read_watched(around(b"\x80\x02" + b"".join(parts) + b"."))


# Programs that are valid: every value that is pushed is used, names and calls and storages among them.
names = st.sampled_from(
    [b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
     b"ctorch\nFloatStorage\n", b"ctorch.serialization\nload\n", b"cnumpy\ndtype\n"]
)  # fmt: skip
texts = st.text(max_size=12).map(str.encode).map(lambda b: b"X" + len(b).to_bytes(4, "little") + b)
numbers = st.integers(-(2**31), 2**31 - 1).map(lambda i: b"J" + i.to_bytes(4, "little", signed=True))
programs = st.recursive(
    st.one_of(st.sampled_from([b"N", b"\x88", b"\x89", b")", b"]", b"}"]), names, texts, numbers),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: b"(" + b"".join(items) + b"t"),
        st.lists(inner, max_size=4).map(lambda items: b"](" + b"".join(items) + b"e"),
        st.lists(st.tuples(inner, inner), max_size=4).map(lambda p: b"}(" + b"".join(k + v for k, v in p) + b"u"),
        st.tuples(names, st.lists(inner, max_size=4)).map(lambda c: c[0] + b"(" + b"".join(c[1]) + b"tR"),
        st.tuples(names, inner, inner).map(lambda c: c[0] + b")R" + c[1] + c[2].join((b"(", b"t")) + b"b"),
        inner.map(lambda pid: b"(" + pid + b"tQ"),
        st.lists(numbers, min_size=2, max_size=4).map(
            lambda n: (
                b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0000X\x03\0\0"
                b"\0cpu" + n[0] + b"tQ" + n[1] + b"(" + b"".join(n[2:]) + b"t(" + b"".join(n[2:]) + b"t\x89NtR"
            )
        ),
    ),
    max_leaves=20,
)


@few(200)
@given(program=programs, around=st.sampled_from((zipped, stacked, bytes)))
def test_valid_programs_are_followed_to_their_end(program: bytes, around: Callable[[bytes], bytes]) -> None:
    with watched():
        decoded = decode(b"\x80\x02" + program + b".")
    assert decoded.stream.end is not None or decoded.problems
    assert not any(p.kind is ProblemKind.TRUNCATED for p in decoded.problems)
    read_watched(around(b"\x80\x02" + program + b"."))


SMALL = Limits(opcodes=4096, stack=50, memo=10, nesting=8, argument_bytes=200, pickle_bytes=2000)


@few(100)
@given(data=st.one_of(programs, st.lists(opcodes, max_size=200).map(b"".join)))
def test_no_limit_is_passed(data: bytes) -> None:
    with watched():
        decoded = decode(data + b".", limits=SMALL)
    if decoded.stream.end is not None:
        assert deepest(decoded.value, SMALL.nesting + 2) <= SMALL.nesting + 1
    assert all(p.what is not None for p in decoded.problems if p.kind is ProblemKind.LIMIT)


def deepest(value: Value, enough: int) -> int:
    """How deep lists, tuples and dicts lie in each other, not further than is asked for."""
    deep, level = 0, [value]
    while level and deep < enough:
        deep += 1
        level = [
            part
            for v in level
            for part in (v.items if isinstance(v, ListNode) else v if isinstance(v, tuple) else
                         [x for _, x in v.pairs] if isinstance(v, DictNode) else ())
        ]  # fmt: skip
    return deep


MODEL = target_of(Model())
PINNED = Environment.from_dict({"python": "3.11.7", "torch": "2.13.0", "lightning": "2.6.6"})


@few(60)
@given(data=mutated())
def test_what_is_said_of_a_changed_file_can_be_said(data: bytes) -> None:
    """Rules, text and JSON take whatever the reader gives them: nothing crashes behind it either."""
    checkpoint = read_watched(data)
    report = diagnose(Facts(checkpoint, Question(path="m.ckpt"), MODEL, PINNED), all_rules())
    assert not report.crashed
    json.dumps(report.to_dict(), allow_nan=False)
    json.dumps(inspect_json.to_dict(checkpoint), allow_nan=False)
    inspect_text.render(checkpoint, Style(width=80))
    text.render(report, Style(width=80))


FOLDER = {p.name: p.read_bytes() for p in sorted((CORPUS / "tiny.dcp").iterdir())}


@few(60)
@given(name=st.sampled_from(sorted(FOLDER)), at=st.floats(0, 1), new=st.binary(max_size=4), cut=st.booleans())
def test_a_changed_folder(name: str, at: float, new: bytes, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for other, content in FOLDER.items():
            place = int(at * len(content))
            rest = b"" if cut else content[place + len(new) :]
            changed = content[:place] + new + rest if other == name else content
            Path(folder, other).write_bytes(changed)
        with watched():
            checkpoint = open_checkpoint(folder)
        assert checkpoint.layout in (Layout.DCP, Layout.DIRECTORY)


@few(100)
@given(data=st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    read_watched(data)


@pytest.mark.parametrize("seed", range(0, len(SEEDS), 4))
def test_every_place_where_a_file_can_break_off(seed: int) -> None:
    data = SEEDS[seed]
    for end in range(0, len(data), max(len(data) // 60, 1)):
        read_watched(data[:end])

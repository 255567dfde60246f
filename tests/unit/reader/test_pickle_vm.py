from __future__ import annotations

import collections
import gc
import pickle  # noqa: TID251 (the standard pickler writes the honest input)
import pickletools
import struct
import subprocess
import sys

import pytest

from relight.core.checkpoint import ProblemKind
from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value, mapping_pairs
from relight.reader import Limits
from relight.reader.pickle_vm import Decoded, decode


def plain(value: Value) -> object:
    """The description as Python objects, for comparing; only for small values without cycles."""
    if isinstance(value, ListNode):
        return [plain(v) for v in value.items]
    if isinstance(value, DictNode):
        return {"dict": [(plain(k), plain(v)) for k, v in value.pairs]}
    if isinstance(value, SetNode):
        return {"frozenset" if value.frozen else "set": [plain(v) for v in value.items]}
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, Global):
        return value.stored
    if isinstance(value, Call):
        said: dict[str, object] = {"call": plain(value.callee), "how": value.how, "args": plain(value.args)}
        if value.kwargs:
            said["kwargs"] = [(plain(k), plain(v)) for k, v in value.kwargs]
        if value.has_state:
            said["state"] = plain(value.state)
        if value.items:
            said["items"] = [plain(v) for v in value.items]
        if value.pairs:
            said["pairs"] = [(plain(k), plain(v)) for k, v in value.pairs]
        return said
    if isinstance(value, Persistent):
        return {"pid": plain(value.pid)}
    if isinstance(value, Opaque):
        return {"opaque": True}
    return value


def call(name: str, *args: object, how: str = "reduce", **more: object) -> dict[str, object]:
    return {"call": name, "how": how, "args": args, **more}


# One line per opcode: name, a stream that uses it, what the stream says. `.` is STOP, `N` is NONE.
OPCODES: list[tuple[str, bytes, object]] = [
    ("INT", b"I-42\n.", -42),
    ("BININT", b"J\xfe\xff\xff\xff.", -2),
    ("BININT1", b"K\xff.", 255),
    ("BININT2", b"M\x00\x01.", 256),
    ("LONG", b"L123456789012L\n.", 123456789012),
    ("LONG1", b"\x8a\x02\x00\xff.", -256),
    ("LONG4", b"\x8b\x01\x00\x00\x00\x7f.", 127),
    ("STRING", b"S'a\\n'\n.", "a\n"),
    ("BINSTRING", b"T\x02\x00\x00\x00ab.", "ab"),
    ("SHORT_BINSTRING", b"U\x02ab.", "ab"),
    ("BINBYTES", b"B\x02\x00\x00\x00a\xff.", b"a\xff"),
    ("SHORT_BINBYTES", b"C\x02a\xff.", b"a\xff"),
    ("BINBYTES8", b"\x8e\x02\x00\x00\x00\x00\x00\x00\x00ab.", b"ab"),
    ("BYTEARRAY8", b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab.", b"ab"),
    ("NONE", b"N.", None),
    ("NEWTRUE", b"\x88.", True),
    ("NEWFALSE", b"\x89.", False),
    ("UNICODE", b"V\\u00e9\n.", "é"),
    ("SHORT_BINUNICODE", b"\x8c\x02\xc3\xa9.", "é"),
    ("BINUNICODE", b"X\x02\x00\x00\x00\xc3\xa9.", "é"),
    ("BINUNICODE8", b"\x8d\x02\x00\x00\x00\x00\x00\x00\x00\xc3\xa9.", "é"),
    ("FLOAT", b"F1.5\n.", 1.5),
    ("BINFLOAT", b"G" + struct.pack(">d", 2.5) + b".", 2.5),
    ("EMPTY_LIST", b"].", []),
    ("APPEND", b"]K\x01a.", [1]),
    ("APPENDS", b"](K\x01K\x02e.", [1, 2]),
    ("LIST", b"(K\x01K\x02l.", [1, 2]),
    ("EMPTY_TUPLE", b").", ()),
    ("TUPLE", b"(K\x01K\x02t.", (1, 2)),
    ("TUPLE1", b"K\x01\x85.", (1,)),
    ("TUPLE2", b"K\x01K\x02\x86.", (1, 2)),
    ("TUPLE3", b"K\x01K\x02K\x03\x87.", (1, 2, 3)),
    ("EMPTY_DICT", b"}.", {"dict": []}),
    ("DICT", b"(K\x01K\x02d.", {"dict": [(1, 2)]}),
    ("SETITEM", b"}K\x01K\x02s.", {"dict": [(1, 2)]}),
    ("SETITEMS", b"}(K\x01K\x02K\x03K\x04u.", {"dict": [(1, 2), (3, 4)]}),
    ("EMPTY_SET", b"\x8f.", {"set": []}),
    ("ADDITEMS", b"\x8f(K\x01K\x02\x90.", {"set": [1, 2]}),
    ("FROZENSET", b"(K\x01\x91.", {"frozenset": [1]}),
    ("POP", b"K\x01K\x020.", 1),
    ("DUP", b"K\x012\x86.", (1, 1)),
    ("MARK", b"(t.", ()),
    ("POP_MARK", b"K\x01(K\x02K\x031.", 1),
    ("GET", b"K\x07p3\ng3\n\x86.", (7, 7)),
    ("BINGET", b"K\x07q\x03h\x03\x86.", (7, 7)),
    ("LONG_BINGET", b"K\x07r\x03\x00\x00\x00j\x03\x00\x00\x00\x86.", (7, 7)),
    ("PUT", b"K\x07p0\n.", 7),
    ("BINPUT", b"K\x07q\x00.", 7),
    ("LONG_BINPUT", b"K\x07r\x00\x00\x00\x00.", 7),
    ("MEMOIZE", b"\x80\x04K\x07\x94h\x00\x86.", (7, 7)),
    ("EXT1", b"\x82\x05.", {"opaque": True}),
    ("EXT2", b"\x83\x05\x00.", {"opaque": True}),
    ("EXT4", b"\x84\x05\x00\x00\x00.", {"opaque": True}),
    ("GLOBAL", b"cmod\nName\n.", "mod.Name"),
    ("STACK_GLOBAL", b"\x8c\x03mod\x8c\x04Name\x93.", "mod.Name"),
    ("REDUCE", b"cm\nf\nK\x01\x85R.", call("m.f", 1)),
    ("BUILD", b"cm\nf\n)R}K\x01K\x02sb.", call("m.f", state={"dict": [(1, 2)]})),
    ("INST", b"(K\x01im\nC\n.", call("m.C", 1, how="inst")),
    ("OBJ", b"(cm\nC\nK\x01o.", call("m.C", 1, how="inst")),
    ("NEWOBJ", b"cm\nC\nK\x01\x85\x81.", call("m.C", 1, how="new")),
    ("NEWOBJ_EX", b"cm\nC\n)}\x8c\x01kK\x01s\x92.", call("m.C", how="new", kwargs=[("k", 1)])),
    ("PROTO", b"\x80\x02N.", None),
    ("STOP", b"N.", None),
    ("FRAME", b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.", None),
    ("PERSID", b"Pabc\n.", {"pid": "abc"}),
    ("BINPERSID", b"K\x01Q.", {"pid": 1}),
    ("READONLY_BUFFER", b"C\x01a\x98.", b"a"),
]
# Wants bytes that lie outside the stream, which a file cannot have.
WITHOUT_VALUE = {"NEXT_BUFFER"}


@pytest.mark.parametrize("name, stream, expected", OPCODES, ids=[o[0] for o in OPCODES])
def test_opcode(name: str, stream: bytes, expected: object) -> None:
    codes = {o.name: o.code for o in pickletools.opcodes}
    assert codes[name].encode("latin-1") in stream
    decoded = decode(stream)
    assert not decoded.problems
    assert plain(decoded.value) == expected
    assert type(plain(decoded.value)) is type(expected)
    assert decoded.stream.end == len(stream)


def test_every_opcode_has_its_line() -> None:
    assert {o.name for o in pickletools.opcodes} - {o[0] for o in OPCODES} == WITHOUT_VALUE


def test_a_buffer_from_outside_is_refused() -> None:
    assert [p.kind for p in decode(b"\x80\x05\x97.").problems] == [ProblemKind.PICKLE_MALFORMED]


@pytest.mark.parametrize("protocol", range(6))
def test_an_honest_object(protocol: int) -> None:
    value = {"a": [1, 2.5, None, True, -(10**40)], "b": (("x",), "é"), "long": 2**70, "n": "y" * 300}
    decoded = decode(pickle.dumps(value, protocol))
    pairs = dict(mapping_pairs(decoded.value) or ())
    assert plain(pairs["a"]) == value["a"]
    assert (pairs["b"], pairs["long"], pairs["n"]) == (value["b"], value["long"], value["n"])
    assert decoded.stream.protocol == (protocol if protocol > 1 else 0)


@pytest.mark.parametrize("protocol", range(6))
def test_an_ordered_dict_with_state(protocol: int) -> None:
    value = collections.OrderedDict(a=1)
    value._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    node = decode(pickle.dumps(value, protocol)).value
    assert isinstance(node, Call)
    assert node.name == "collections.OrderedDict"
    assert [(k, v) for k, v in mapping_pairs(node) or ()] == [("a", 1)]
    assert node.has_state


class TestIdentity:
    def test_what_is_shared_stays_shared(self) -> None:
        inner = [1]
        value = decode(pickle.dumps([inner, inner], 2)).value
        assert isinstance(value, ListNode)
        assert value.items[0] is value.items[1]

    def test_a_list_that_holds_itself(self) -> None:
        loop: list[object] = []
        loop.append(loop)
        value = decode(pickle.dumps(loop, 2)).value
        assert isinstance(value, ListNode)
        assert value.items[0] is value

    def test_a_name_is_one_node_and_counted(self) -> None:
        decoded = decode(b"(cm\nf\ncm\nf\nt.")
        (name,) = decoded.globals
        assert name.count == 2
        assert isinstance(decoded.value, tuple)
        assert decoded.value[0] is decoded.value[1] is name


class TestNames:
    @pytest.mark.parametrize(
        "stored, meant",
        [
            ("__builtin__.long", "builtins.int"),
            ("copy_reg._reconstructor", "copyreg._reconstructor"),
            ("commands.getoutput", "subprocess.getoutput"),
            ("my_module.Thing", "my_module.Thing"),
        ],
    )
    def test_python_2_names_are_read_as_the_standard_library_reads_them(self, stored: str, meant: str) -> None:
        module, _, name = stored.rpartition(".")
        (found,) = decode(f"c{module}\n{name}\n.".encode()).globals
        assert (found.stored, found.full_name) == (stored, meant)

    def test_from_protocol_3_on_they_are_taken_as_they_are(self) -> None:
        (found,) = decode(b"\x80\x03c__builtin__\nlong\n.").globals
        assert found.full_name == "__builtin__.long"

    def test_a_dotted_name(self) -> None:
        (found,) = decode(b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.").globals
        assert (found.module, found.name) == ("torch", "os.system")

    def test_a_name_that_is_thrown_away_again(self) -> None:
        assert [g.stored for g in decode(b"cos\nsystem\n0N.").globals] == ["os.system"]

    def test_a_computed_name_is_seen_and_the_rest_is_read(self) -> None:
        decoded = decode(b"\x80\x04K\x01\x8c\x01x\x93.")
        assert decoded.sightings
        assert not decoded.problems


class TestNothingIsLost:
    def test_two_builds(self) -> None:
        node = decode(b"cm\nC\n)\x81}\x8c\x01aK\x01sb}\x8c\x01bK\x02sb.").value
        assert isinstance(node, Call)
        assert plain(node.state) == {"dict": [("a", 1), ("b", 2)]}

    def test_what_was_found_before_an_error(self) -> None:
        decoded = decode(b"cos\nsystem\n\x8c\x02id\x85R\xff")
        assert [g.stored for g in decoded.globals] == ["os.system"]
        assert len(decoded.calls) == 1
        assert decoded.stream.end is None
        assert decoded.value is None

    def test_calls_that_are_popped(self) -> None:
        assert len(decode(b"cm\nf\n)R0N.").calls) == 1

    def test_which_opcodes_were_used_and_where_first(self) -> None:
        decoded = decode(b"\x80\x02K\x01K\x02\x86.")
        assert list(decoded.stream.opcodes.items()) == [(0x80, 0), (0x4B, 2), (0x86, 6), (0x2E, 7)]

    def test_several_streams_in_a_row(self) -> None:
        data = b"K\x01.K\x02."
        first = decode(data)
        assert first.stream.end == 3
        assert decode(data, 3).value == 2


def problem(stream: bytes, **limits: float) -> tuple[ProblemKind, str | None]:
    decoded: Decoded = decode(stream, limits=Limits(**limits))  # type: ignore[arg-type]
    assert decoded.stream.end is None
    (found,) = decoded.problems
    assert found.position is not None
    assert 0 <= found.position <= len(stream)
    return found.kind, found.what


class TestBroken:
    @pytest.mark.parametrize(
        "stream",
        [b"", b"(", b"K", b"J\x01", b"X\xff\xff\xff\x7fab", b"\x8e" + b"\xff" * 8, b"G\x00", b"c", b"cos\n", b"I12",
         b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"q", b"h", b"\x8a", b"\x80", b"U\x05ab", b"}K\x01"],
    )  # fmt: skip
    def test_streams_that_end_early(self, stream: bytes) -> None:
        assert problem(stream)[0] is ProblemKind.TRUNCATED

    @pytest.mark.parametrize(
        "stream",
        [b".", b"0.", b"\x85.", b"K\x01\x86.", b"a.", b"K\x01a.", b"]a.", b"R.", b"NK\x01R.", b"h\x09.", b"t.", b"u.",
         b"}(K\x01u.", b"]K\x01K\x02s.", b"}K\x01a.", b"\xff.", b"\x00.", b"I12x\n.", b"Fnope\n.", b"S'a\n.",
         b"Vx\\u12\n.", b"X\x01\x00\x00\x00\xff.", b"\x80\x09.", b"\x8b\xff\xff\xff\xffN.", b"K\x01p-1\n.",
         b"}]K\x01s.", b"cm\nC\n)K\x01\x92.", b"(o.", b"\x8f(]\x90.", b"\x82\x00.", b"2.", b"K\x01b."],
    )  # fmt: skip
    def test_streams_that_make_no_sense(self, stream: bytes) -> None:
        assert problem(stream)[0] in (ProblemKind.PICKLE_MALFORMED, ProblemKind.TRUNCATED)

    def test_wherever_an_honest_stream_is_cut_it_is_cut_and_says_where(self) -> None:
        """Damage and a cut have different remedies; the position is that of the opcode which cannot be finished."""
        stream = pickle.dumps({"a": [1.5, 300, 70_000, None, True], "b": ("x", b"y" * 300), "c": [{}] * 3}, 2)
        for end in range(len(stream)):
            (found,) = decode(stream[:end]).problems
            assert found.kind is ProblemKind.TRUNCATED, end
            assert found.position is not None
            assert end - 305 <= found.position <= end, end

    def test_the_position_is_that_of_the_opcode(self) -> None:
        assert [p.position for p in decode(b"N" * 50 + b"a.").problems] == [50]
        assert [p.position for p in decode(b"xx" + b"N0" * 9 + b"0.", 2).problems] == [18]

    def test_the_stack_is_popped_below_a_mark(self) -> None:
        assert problem(b"K\x01(00t.")[0] is ProblemKind.PICKLE_MALFORMED


class TestLimits:
    @pytest.mark.parametrize(
        "what, limit, stream",
        [
            ("opcodes", 4096, b"N0" * 8192 + b"N."),
            ("stack", 10, b"N" * 8192 + b"."),
            ("marks", 10, b"(" * 20 + b"t" * 20 + b"."),
            ("memo", 10, b"N" + b"\x94" * 20 + b"."),
            ("names", 10, b"".join(b"cm\nn%d\n0" % i for i in range(20)) + b"N."),
            ("nesting", 50, b"]" * 100 + b"a" * 99 + b"."),
            ("nesting", 50, b")" + b"\x85" * 100 + b"."),
            ("argument_bytes", 10, b"X\x14\x00\x00\x00" + b"a" * 20 + b"."),
            ("integer_bytes", 10, b"\x8a\x14" + b"a" * 20 + b"."),
            ("integer_bytes", 4096, b"L" + b"1" * 5000 + b"L\n."),
            ("seconds", -1.0, b"N0" * 8192 + b"N."),
        ],
    )
    def test_reaching_one_is_a_problem_that_names_it(self, what: str, limit: float, stream: bytes) -> None:
        assert problem(stream, **{what: limit}) == (ProblemKind.LIMIT, what)

    def test_a_long_name(self) -> None:
        assert problem(b"cm\n" + b"n" * 2000 + b"\n.")[0] is ProblemKind.LIMIT

    @pytest.mark.parametrize("index", [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\xe1\xf5\x05"])
    def test_a_far_memo_entry_costs_nothing(self, index: bytes) -> None:
        """The C unpickler allocates a table up to the index: gigabytes for five bytes."""
        decode(b"K\x07r" + index + b"j" + index + b"\x86.")

    def test_keys_are_never_hashed(self) -> None:
        """Sixty tuples of itself would take 2**60 steps to hash, and as many to compare."""
        key = b")" + b"2\x86" * 60
        decode(b"}" + key + b"Ns.")

    def test_keys_that_would_collide_in_a_dict(self) -> None:
        items = b"".join(b"\x8a\x0a" + ((2**61 - 1) * (i + 1)).to_bytes(10, "little") + b"N" for i in range(20_000))
        assert not decode(b"}(" + items + b"u.").problems


@pytest.mark.parametrize("stream", ["b']' * n + b'a' * (n - 1)", "b')' + b'\\x85' * n", "b'}' + b'N}' * n + b's' * n"])
def test_containers_far_inside_each_other(stream: str) -> None:
    """In a process of its own: if freeing them recursed, the interpreter would crash (8 MiB of stack: 40 bytes each)."""
    code = (
        "from relight.reader import Limits\nfrom relight.reader.pickle_vm import decode\n"
        f"n = 200_000\ndata = {stream} + b'.'\n"
        "d = decode(data, limits=Limits(nesting=10**8, stack=10**8))\nkinds = [p.kind.value for p in d.problems]\n"
        "del d\nprint(kinds)\n"
        "print([p.what for p in decode(data).problems])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.splitlines()[0] == "[]"
    assert done.stdout.splitlines()[1] in ("['nesting']", "['stack']")


def test_the_collector_is_left_as_it_was() -> None:
    gc.enable()  # a command that ran in this process before leaves it off
    decode(b"\xff")
    assert gc.isenabled()
    gc.disable()
    try:
        decode(b"N.")
        assert not gc.isenabled()
    finally:
        gc.enable()

"""The short cut through a tensor's pickle does what the loop does, opcode by opcode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relight.core.objects import Call, DictNode, Global, ListNode, Opaque, Persistent, SetNode, Value
from relight.reader.limits import Limits
from relight.reader.pickle_tensor import TensorShortcut
from relight.reader.pickle_vm import Decoded, decode
from relight.rulekit import File, Tensor
from relight.testing.recipes import contents

CORPUS = Path(__file__).parents[2] / "corpus" / "reader"


def flat(root: Value) -> Iterator[object]:
    """Everything that a value says, in one order, with shared parts by number."""
    numbers: dict[int, int] = {}
    stack: list[object] = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, (ListNode, DictNode, SetNode, Call, Persistent, Global, Opaque)):
            known = id(value) in numbers
            yield type(value).__name__, numbers.setdefault(id(value), len(numbers))
            if known:
                continue
        if isinstance(value, Call):
            yield value.how, value.position, value.has_state
            stack += [value.callee, value.args, value.state, *value.items, *value.pairs]
        elif isinstance(value, Persistent):
            yield value.position
            stack.append(value.pid)
        elif isinstance(value, Global):
            yield value.full_name, value.position, value.count
        elif isinstance(value, (ListNode, SetNode)):
            stack += value.items
        elif isinstance(value, DictNode):
            stack += value.pairs
        elif isinstance(value, tuple):
            yield len(value)
            stack += value
        elif not isinstance(value, Opaque):
            yield value


def told(decoded: Decoded) -> tuple[object, ...]:
    return (
        list(flat(decoded.value)), decoded.stream, decoded.problems, len(decoded.calls), len(decoded.persistents),
        [c.position for c in decoded.calls], [p.position for p in decoded.persistents],
    )  # fmt: skip


def many(count: int) -> bytes:
    """A pickle as torch writes it: every object is put into the memo."""
    out = bytearray(b"\x80\x02}q\x00(")
    index = 1

    def put() -> bytes:
        nonlocal index
        index += 1
        return b"q" + bytes([index - 1]) if index <= 256 else b"r" + (index - 1).to_bytes(4, "little")

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode() + put()

    for i in range(count):
        size = {0: b"K\x02K\x03\x86", 1: b"M\x00\x01\x85", 2: b"(K\x01K\x01K\x01K\x06t", 3: b"K\x01K\x02K\x03\x87"}[
            i % 4
        ]
        numel = {0: b"K\x06", 1: b"M\x00\x01", 2: b"J\x06\x00\x00\x00", 3: b"K\x06"}[i % 4]
        out += text(f"layer.{i}")
        out += b"ctorch._utils\n_rebuild_tensor_v2\n" + put() if not i else b"h\x02"
        out += b"((" + (text("storage") if not i else b"h\x03")
        out += b"ctorch\nFloatStorage\n" + put() if not i else b"h\x04"
        out += text(str(i)) + (text("cpu") if not i else b"h\x06") + numel + b"t" + put() + b"QK\x00"
        out += size + put() + size + put() + b"\x89"
        out += b"ccollections\nOrderedDict\n" + put() if not i else b"h\x0a"
        out += b")R" + put() + b"t" + put() + b"R" + put()
    return bytes(out + b"u.")


def both(data: bytes, monkeypatch: pytest.MonkeyPatch, **limits: int) -> int:
    """Decode with and without the short cut; gives how often it was taken."""
    taken = 0
    take = TensorShortcut.take

    def counting(self: TensorShortcut, at: int) -> int:
        nonlocal taken
        end = take(self, at)
        taken += end > 0
        return end

    with monkeypatch.context() as patch:
        patch.setattr(TensorShortcut, "take", counting)
        quick = told(decode(data, limits=Limits(**limits)))  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(TensorShortcut, "take", lambda self, at: 0)
        assert told(decode(data, limits=Limits(**limits))) == quick  # type: ignore[arg-type]
    return taken


def test_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(many(200), monkeypatch) > 150


@pytest.mark.parametrize("limits", [{"memo": 1000}, {"nesting": 2}, {"nesting": 3}, {"nesting": 4}, {"nesting": 5}])
def test_limits_are_the_same(monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    both(many(200), monkeypatch, **limits)


def test_wherever_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    data = many(60)
    for end in range(len(data) - 700, len(data), 7):
        both(data[:end], monkeypatch)


def test_whatever_byte_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = many(40)
    tail = len(data) - 260
    for at in range(tail, len(data) - 2):
        for change in (1, 0x80):
            both(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :], monkeypatch)


def test_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted(CORPUS.glob("**/*.ckpt")):
        both(path.read_bytes()[64:], monkeypatch)


def test_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    data = contents(File(tensors={f"w{i}": Tensor((2, i + 1)) for i in range(50)}))
    start = data.index(b"\x80\x02")
    both(data[start:], monkeypatch)


def test_a_hundred_thousand_tensors_take_seconds_at_most() -> None:
    began = time.process_time()
    decoded = decode(many(100_000))
    assert len(decoded.persistents) == 100_000
    assert time.process_time() - began < 6  # 0.6 to 0.9 on an idle core of 2021

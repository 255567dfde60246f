"""Deep nests, whichever way they are built, end in bounded time: at decoding, and when they are thrown away."""

from __future__ import annotations

import gc
import time

import pytest

from relight.core.checkpoint import ProblemKind
from relight.reader.limits import Limits
from relight.reader.pickle_vm import decode

MILLION = 200_000  # test_pickle_vm has a full million
NO_LIMIT = Limits(nesting=10 * MILLION, stack=10 * MILLION, marks=10 * MILLION)


def top_down(count: int) -> bytes:
    """Each list is put into its parent while it is still empty, and filled later."""
    steps = (b"j%b]\x94a0" % i.to_bytes(4, "little") for i in range(count))
    return b"]\x940" + b"".join(steps) + b"h\x00."


STREAMS = {
    "lists": b"]" * MILLION + b"a" * (MILLION - 1) + b".",
    "tuples": b")" + b"\x85" * MILLION + b".",
    "dicts": b"}N" * 100_000 + b"N" + b"s" * 100_000 + b".",
    "lists from the top": top_down(50_000),
    "marks": b"(" * 100_000 + b"t" * 100_000 + b".",
    "calls": b"cm\nf\n" b"\x94)R" + b"".join(b"\x85\x940h\x00j%bR" % i.to_bytes(4, "little")
                                                for i in range(1, 100_000)) + b".",
}  # fmt: skip


@pytest.mark.parametrize("limits", [Limits(), NO_LIMIT], ids=["limits", "no limits"])
@pytest.mark.parametrize("what", STREAMS)
def test_a_million(what: str, limits: Limits) -> None:
    began = time.process_time()
    decoded = decode(STREAMS[what], limits=limits)
    del decoded
    gc.collect()
    assert time.process_time() - began < 20


@pytest.mark.parametrize("what", ["lists", "tuples", "lists from the top", "marks"])
def test_the_limit_is_named(what: str) -> None:
    (problem,) = decode(STREAMS[what]).problems
    assert problem.kind is ProblemKind.LIMIT
    assert problem.what in ("nesting", "marks")


def test_the_limit_is_exact() -> None:
    def lists(depth: int) -> bytes:
        return b"]" * depth + b"a" * (depth - 1) + b"."

    assert not decode(lists(50), limits=Limits(nesting=50)).problems
    assert decode(lists(51), limits=Limits(nesting=50)).problems


def test_cycles_are_no_depth() -> None:
    assert not decode(b"]\x94h\x00a.").problems

"""What is left of an archive whose end is missing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from relight.core.checkpoint import ProblemKind
from relight.reader import open_checkpoint
from relight.reader.detect import read
from relight.reader.source import MemorySource

WHOLE = Path(__file__).parents[2] / "corpus" / "reader" / "state_dict.pt"


def test_every_cut_gives_exactly_the_records_before_it() -> None:
    data = WHOLE.read_bytes()
    whole = open_checkpoint(WHOLE)
    ends = {t.key: whole.storages[t.storage_id or ""].span for t in whole.tensors}
    with zipfile.ZipFile(WHOLE) as archive:
        pickle_end = archive.getinfo("state_dict/data.pkl").file_size + 64
        directory = archive.start_dir
    for cut in range(pickle_end + 1, directory, 13):
        found = read(MemorySource(data[:cut]))
        (problem,) = found.problems_of(ProblemKind.NO_CENTRAL_DIRECTORY)
        left = {key for key, span in ends.items() if span is not None and span.end <= cut}
        assert {t.key for t in found.tensors} == left, cut
        assert {t.key for t in found.lost} == set(ends) - left
        assert problem.details["tensors_whole"] == len(left)
        assert problem.details["tensors"] == len(ends)
        for t in found.tensors:
            assert found.storages[t.storage_id or ""].span == ends[t.key]


@pytest.mark.parametrize("cut", [4, 29, 31, 70, 500])
def test_a_cut_inside_the_pickle(cut: int) -> None:
    found = read(MemorySource(WHOLE.read_bytes()[:cut]))
    assert not found.tensors
    assert any(found.problems_of(ProblemKind.NO_CENTRAL_DIRECTORY))


BROKEN = WHOLE.parent / "broken"


def test_tensors_that_a_damaged_pickle_completes_before_it_breaks() -> None:
    found = open_checkpoint(BROKEN / "flipped_data_pkl.ckpt")
    assert any(p.fatal and p.record == "data.pkl" for p in found.problems)
    assert not found.readable
    assert [(t.key, t.shape) for t in found.tensors] == [
        ("net.0.weight", (16, 8)), ("net.0.bias", (16,)), ("net.2.weight", (1, 16)), ("net.2.bias", (1,)),
    ]  # fmt: skip


def test_nothing_is_made_up_of_a_pickle_that_breaks_before_its_tensors() -> None:
    data = WHOLE.read_bytes()
    start = data.index(b"\x80\x02")
    found = read(MemorySource(data[: start + 10] + b"\xff" + data[start + 11 :]))
    assert not found.tensors
    assert not found.lost


def test_a_checkpoint_behind_other_bytes() -> None:
    whole = open_checkpoint(WHOLE)
    found = read(MemorySource(b"HTTP/1.1 200 OK\r\n\r\n" + WHOLE.read_bytes()))
    (problem,) = found.problems_of(ProblemKind.BYTES_BEFORE)
    assert (problem.fatal, problem.position) == (True, 19)
    assert [t.key for t in found.tensors] == [t.key for t in whole.tensors]
    for t in found.tensors:
        there, here = whole.storages[t.storage_id or ""].span, found.storages[t.storage_id or ""].span
        assert there is not None
        assert here is not None
        assert (here.start, here.length) == (there.start + 19, there.length)

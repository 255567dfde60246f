"""The zip reader, by what a checkpoint that was read says: spans, names, and each way of being wrong."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from relight.core.checkpoint import Checkpoint, Problem, ProblemKind
from relight.reader import DEFAULT_LIMITS, Limits, open_checkpoint
from relight.reader.detect import read
from relight.reader.source import MemorySource
from relight.rulekit import File
from relight.testing.recipes import contents

CORPUS = Path(__file__).parents[2] / "corpus" / "reader"
EMPTY_DICT = b"\x80\x02}q\x00."


@dataclass
class Line:
    """One record to write, with what its two headers may say in place of the truth."""

    name: str
    data: bytes = b""
    local_name: str | None = None
    flags: int = 0
    method: int = 0
    crc: int | None = None
    size: int | None = None
    offset: int | None = None


def archive(*lines: Line, count: int | None = None, zip64: bool = False) -> bytes:
    """A zip archive byte by byte, since no library would write most of these."""
    out, directory = bytearray(), bytearray()
    for line in lines:
        raw = line.data if line.method != 8 else zlib.compress(line.data, wbits=-15)
        crc = zlib.crc32(line.data) if line.crc is None else line.crc
        size = len(line.data) if line.size is None else line.size
        name, local = line.name.encode(), (line.local_name or line.name).encode()
        at = len(out) if line.offset is None else line.offset
        fields = (20, line.flags, line.method, 0, 0x21, crc, len(raw), size)
        if line.offset is None:
            out += struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields, len(local), 0) + local + raw
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, len(name), 0, 0, 0, 0, 0, at) + name
    total = len(lines) if count is None else count
    end = b""
    if zip64:
        start = len(out)
        end += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, total, total, len(directory), start)
        end += struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(directory), 1)
        total, start = 0xFFFF, 0xFFFFFFFF
    else:
        start = len(out)
    end += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, total, total, len(directory), start, 0)
    return bytes(out + directory + end)


def pickled(**changes: object) -> Line:
    return Line("archive/data.pkl", EMPTY_DICT, **changes)  # type: ignore[arg-type]


VERSION = Line("archive/version", b"3\n")  # torch refuses an archive without it


def of_bytes(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Checkpoint:
    return read(MemorySource(data), limits=limits)


def only(checkpoint: Checkpoint, kind: ProblemKind) -> Problem:
    found = list(checkpoint.problems_of(kind))
    assert len(found) == 1, checkpoint.problems
    return found[0]


def test_a_sound_archive() -> None:
    checkpoint = of_bytes(archive(pickled(), VERSION))
    assert not checkpoint.problems
    assert [r.name for r in checkpoint.records] == ["data.pkl", "version"]


ARCHIVES = [p for p in sorted((CORPUS / "checkpoints").glob("*.ckpt")) if zipfile.is_zipfile(p)]


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda p: p.stem)
def test_records_are_those_that_zipfile_sees(path: Path) -> None:
    data = path.read_bytes()
    records = {r.name: r for r in open_checkpoint(path).records}
    with zipfile.ZipFile(path) as known:
        assert len(known.infolist()) == len(records)
        for info in known.infolist():
            record = records[info.filename.partition("/")[2]]
            assert (record.size, record.crc32) == (info.file_size, info.CRC)
            assert data[record.span.start : record.span.end] == known.read(info)


@pytest.mark.parametrize("count", [3, 4100])
def test_spans_are_exact_however_many_records_there_are(count: int) -> None:
    """`verify` and everything that gives values out reads by these spans."""
    lines = [pickled(), *(Line(f"archive/data/{i}", struct.pack("<I", i)) for i in range(count))]
    data = archive(*lines)
    records = {r.name: r.span for r in of_bytes(data).records}
    assert data[records["data.pkl"].start : records["data.pkl"].end] == EMPTY_DICT
    for i in (0, count // 2, count - 1):
        assert data[records[f"data/{i}"].start : records[f"data/{i}"].end] == struct.pack("<I", i)


def test_zip64_with_more_records_than_the_plain_end_record_can_count() -> None:
    lines = [pickled(), VERSION, *(Line(f"archive/data/{i}") for i in range(66_000))]
    checkpoint = of_bytes(archive(*lines, zip64=True))
    assert len(checkpoint.records) == 66_002
    assert not any(p.fatal for p in checkpoint.problems)


class TestDamage:
    def test_compressed_records_can_be_read(self) -> None:
        checkpoint = of_bytes(archive(pickled(method=8), VERSION))
        assert not only(checkpoint, ProblemKind.COMPRESSED_RECORDS).fatal
        assert checkpoint.readable

    def test_bytes_before(self) -> None:
        assert only(open_checkpoint(CORPUS / "broken/leading_garbage.ckpt"), ProblemKind.BYTES_BEFORE).fatal

    def test_bytes_after(self) -> None:
        checkpoint = open_checkpoint(CORPUS / "broken/trailing_garbage.ckpt")
        assert not only(checkpoint, ProblemKind.BYTES_AFTER).fatal
        assert checkpoint.tensors

    def test_encrypted(self) -> None:
        checkpoint = open_checkpoint(CORPUS / "broken/encrypted_zip.ckpt")
        assert any(p.fatal for p in checkpoint.problems_of(ProblemKind.ENCRYPTED))

    def test_a_flipped_byte_in_the_pickle(self) -> None:
        checkpoint = open_checkpoint(CORPUS / "broken/flipped_data_pkl.ckpt")
        assert only(checkpoint, ProblemKind.CRC_MISMATCH).record == "data.pkl"

    def test_a_checksum_of_zero_was_not_recorded(self) -> None:
        """torch.serialization.set_crc32_options(False) writes that everywhere."""
        checkpoint = of_bytes(archive(pickled(crc=0), VERSION))
        assert not checkpoint.problems
        assert checkpoint.records[0].crc32 is None

    def test_the_same_name_twice(self) -> None:
        assert any(of_bytes(archive(pickled(), pickled())).problems_of(ProblemKind.ARCHIVE_AMBIGUOUS))

    def test_names_that_differ_in_case_only(self) -> None:
        lines = pickled(), Line("archive/DATA.PKL", EMPTY_DICT)
        assert any(of_bytes(archive(*lines)).problems_of(ProblemKind.ARCHIVE_AMBIGUOUS))

    @pytest.mark.parametrize("name", ["archive/../../x", "archive/a\\b", "archive/a\0b"])
    def test_names_that_lead_elsewhere(self, name: str) -> None:
        assert any(of_bytes(archive(pickled(), Line(name, b"x"))).problems_of(ProblemKind.ARCHIVE_AMBIGUOUS))

    def test_a_local_header_with_another_name(self) -> None:
        checkpoint = of_bytes(archive(pickled(local_name="archive/evil.pkl")))
        assert any(checkpoint.problems_of(ProblemKind.ARCHIVE_AMBIGUOUS))

    def test_records_that_overlap(self) -> None:
        lines = pickled(), Line("archive/data/0", bytes(8)), Line("archive/data/1", bytes(8), offset=50)
        assert of_bytes(archive(*lines)).problems

    def test_a_directory_that_breaks_off(self) -> None:
        assert any(of_bytes(archive(pickled(), count=9)).problems_of(ProblemKind.ARCHIVE_MALFORMED))

    def test_an_unknown_method(self) -> None:
        assert any(of_bytes(archive(pickled(method=99))).problems_of(ProblemKind.ARCHIVE_MALFORMED))

    def test_an_offset_that_no_file_has(self) -> None:
        data = archive(pickled(), Line("archive/data/0", b"x", offset=0xFFFFFFFE))
        assert any(of_bytes(data).problems)

    def test_a_zip64_offset_that_no_file_has(self, tmp_path: Path) -> None:
        data = bytearray(archive(pickled(), VERSION, zip64=True))
        assert not of_bytes(bytes(data)).problems
        locator = data.rfind(b"PK\x06\x07")
        data[locator + 8 : locator + 16] = struct.pack("<Q", 2**64 - 10)
        path = tmp_path / "m.ckpt"
        path.write_bytes(data)
        assert any(p.fatal for p in open_checkpoint(path).problems_of(ProblemKind.ARCHIVE_MALFORMED))

    def test_data_pkl_is_missing(self) -> None:
        checkpoint = open_checkpoint(CORPUS / "broken/missing_data_pkl.ckpt")
        assert only(checkpoint, ProblemKind.RECORD_MISSING).record == "data.pkl"

    def test_a_storage_is_short(self) -> None:
        problem = only(open_checkpoint(CORPUS / "broken/short_record.ckpt"), ProblemKind.RECORD_SHORT)
        assert (problem.record, problem.fatal) == ("data/0", True)


class TestLimits:
    def test_a_bomb_is_not_inflated(self) -> None:
        bomb = archive(Line("archive/data.pkl", EMPTY_DICT + bytes(20 << 20), method=8))
        assert len(bomb) < 100_000
        checkpoint = of_bytes(bomb)
        assert any(p.kind is ProblemKind.LIMIT and p.what == "inflate_ratio" for p in checkpoint.problems)

    def test_a_bomb_that_lies_about_its_size(self) -> None:
        bomb = archive(Line("archive/data.pkl", EMPTY_DICT + bytes(20 << 20), method=8, size=10))
        assert any(p.fatal for p in of_bytes(bomb).problems)

    def test_too_many_records(self) -> None:
        limits = Limits(records=5)
        checkpoint = of_bytes(archive(pickled(), *(Line(f"archive/{i}") for i in range(9))), limits)
        assert only(checkpoint, ProblemKind.LIMIT).what == "records"

    def test_a_pickle_that_is_too_large(self) -> None:
        checkpoint = of_bytes(archive(pickled()), Limits(pickle_bytes=3))
        assert only(checkpoint, ProblemKind.LIMIT).what == "pickle_bytes"


class TestLaziness:
    def test_only_the_end_and_the_pickle_of_a_large_file_are_read(self, tmp_path: Path) -> None:
        """The storage is a hole in a sparse file: reading it would show in the count, not in the time."""
        storage = 1 << 30
        head = archive(pickled(), VERSION, Line("archive/data/0", b""))
        cut = head.index(b"PK\x01\x02")
        sizes = struct.pack("<2I", storage, storage)
        local = head.rindex(b"PK\x03\x04")
        front = bytearray(head[:cut])
        front[local + 18 : local + 26] = sizes
        tail = bytearray(head[cut:])
        last = tail.rindex(b"PK\x01\x02")
        tail[last + 20 : last + 28] = sizes
        end = tail.rindex(b"PK\x05\x06")
        tail[end + 16 : end + 20] = struct.pack("<I", cut + storage)
        path = tmp_path / "large.ckpt"
        with path.open("wb") as file:
            file.write(front)
            file.seek(storage, io.SEEK_CUR)
            file.write(tail)
        checkpoint = open_checkpoint(path)
        assert not any(p.fatal for p in checkpoint.problems)
        assert checkpoint.records[-1].size == storage
        assert checkpoint.bytes_read < 200_000

    def test_a_cut_file_is_not_read_in_whole(self) -> None:
        data = contents(File(tensors={"w": (1 << 18,)}))
        checkpoint = of_bytes(data[:-10])
        assert only(checkpoint, ProblemKind.NO_CENTRAL_DIRECTORY).fatal
        assert [t.key for t in (*checkpoint.tensors, *checkpoint.lost)] == ["w"]
        assert checkpoint.bytes_read < len(data)

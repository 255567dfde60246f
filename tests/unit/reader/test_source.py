from __future__ import annotations

import os
from pathlib import Path

import pytest

from relight.core.errors import SourceError
from relight.reader import open_checkpoint
from relight.reader.source import ByteSource, LocalSource, MemorySource


@pytest.fixture(params=["local", "memory"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ByteSource:
    if request.param == "memory":
        return MemorySource(b"0123456789")
    (tmp_path / "digits").write_bytes(b"0123456789")
    return LocalSource(tmp_path / "digits")


@pytest.mark.parametrize(
    "start, length, expected",
    [(0, 3, b"012"), (8, 5, b"89"), (10, 1, b""), (99, 4, b""), (4, 0, b""), (0, 10, b"0123456789"), (3, -1, b"")],
)
def test_a_range_gives_what_is_there(source: ByteSource, start: int, length: int, expected: bytes) -> None:
    assert source.read(start, length) == expected
    source.close()


def test_reads_are_counted(source: ByteSource) -> None:
    source.read(0, 4)
    source.read(8, 50)
    assert (source.size, source.bytes_read, source.requests) == (10, 6, 2)
    source.close()


def test_an_offset_beyond_what_a_disk_can_have(source: ByteSource) -> None:
    """Offsets come from the file, as unsigned 64-bit numbers; lseek takes signed ones."""
    assert source.read(2**63 + 5, 4) == b""
    source.close()


def test_a_file_that_shrinks_gives_less(tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(bytes(100))
    source = LocalSource(path)
    os.truncate(path, 10)
    assert len(source.read(0, 100)) == 10
    source.close()


@pytest.mark.parametrize("name", ["absent.ckpt", "absent/deeper.ckpt", "with\0nul"])
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_checkpoint(tmp_path / name)
    assert caught.value.reason


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.ckpt"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(SourceError, match="permission"):
        open_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_device_is_refused(tmp_path: Path) -> None:
    """Opening a pipe for reading would wait for ever, so a character device stands for all of them."""
    with pytest.raises(SourceError, match="regular file"):
        open_checkpoint("/dev/null")

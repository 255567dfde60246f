"""Remote files: what is asked for, how often, and what a server that does not play along leads to."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relight
from relight.api import tensor_statistics
from relight.core.errors import SourceError
from relight.reader import open_checkpoint
from relight.reader.remote import HEAD, TAIL, RangeSource, is_url, open_url
from relight.rulekit import File, Tensor
from relight.testing import write
from relight.testing.recipes import contents


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves one file; parts of it where ``ranges`` says so."""

    def __init__(self, data: bytes, ranges: bool, log: list[str], *args: object) -> None:
        self.data, self.ranges, self.log = data, ranges, log
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path != "/model.ckpt":
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "")
        self.log.append(wanted)
        match = re.match(r"bytes=(\d*)-(\d*)$", wanted)
        body, status = self.data, 200
        if self.ranges and match:
            first, last = match.groups()
            start = int(first) if first else max(len(body) - int(last), 0)
            end = min(int(last) + 1, len(body)) if first and last else len(body)
            body, status = body[start:end], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that does not want the whole file hangs up
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[object]:
    servers = []

    def start(data: bytes, *, ranges: bool = True) -> tuple[str, list[str]]:
        log: list[str] = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, data, ranges, log))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/model.ckpt", log

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


LARGE = File(
    tensors={f"layers.{i}.weight": Tensor((64, 128)) for i in range(60)}, hparams={"width": 128}, extra={"epoch": 3}
)


def test_two_requests_for_a_file_of_any_size(serve, tmp_path: Path) -> None:
    data = contents(LARGE)
    assert len(data) > TAIL + HEAD
    url, log = serve(data)
    remote = open_checkpoint(url)
    local = open_checkpoint(write(LARGE, tmp_path / "m.ckpt"))
    assert [(t.key, t.shape, t.dtype) for t in remote.tensors] == [(t.key, t.shape, t.dtype) for t in local.tensors]
    first_values = local.storages["0"].span
    assert first_values is not None
    last = int(log[1].rpartition("-")[2])
    # Up to the header of the first record with values, and none of the values.
    assert log == [f"bytes=-{TAIL}", f"bytes=0-{last}"]
    assert first_values.start - 200 < last < first_values.start
    assert remote.bytes_read == TAIL + last + 1 < 400 << 10


MANY = File(tensors={f"layers.{i}.some.long.name.of.a.block.weight": Tensor((1200,)) for i in range(1500)})


def test_two_requests_where_the_pickle_is_large(serve) -> None:
    url, log = serve(contents(MANY))
    remote = open_checkpoint(url)
    assert len(remote.tensors) == 1500
    assert not remote.problems
    assert len(log) == 2
    assert int(log[1].rpartition("-")[2]) > HEAD


def test_three_requests_where_the_directory_is_larger_than_the_tail(serve) -> None:
    url, log = serve(contents(File(tensors={f"l.{i}": Tensor((1200,)) for i in range(4000)})))
    assert len(open_checkpoint(url).tensors) == 4000
    assert len(log) == 3


def test_the_values_of_one_tensor_are_one_request_more(serve) -> None:
    url, log = serve(contents(LARGE))
    entry, statistics = tensor_statistics(url, "layers.30.weight")
    assert (entry.key, statistics.count, statistics.zeros) == ("layers.30.weight", 64 * 128, 64 * 128)
    assert len(log) <= 5


def test_a_small_file_is_one_request(serve) -> None:
    url, log = serve(contents(File()))
    assert len(open_checkpoint(url).tensors) == 2
    assert len(log) == 1


def test_check_works_on_a_url(serve) -> None:
    url, _ = serve(contents(File(raw=True)))
    report = relight.check(url, environment={"torch": "2.13.0", "lightning": "2.6.6"})
    assert [f.name for f in report.findings] == ["no-lightning-version"]


def test_a_server_that_sends_the_whole_file_is_not_listened_to(serve) -> None:
    url, _ = serve(contents(LARGE), ranges=False)
    with pytest.raises(SourceError, match="a part of the file"):
        open_checkpoint(url)


def test_no_such_file_on_the_server(serve) -> None:
    url, _ = serve(b"")
    with pytest.raises(SourceError, match="404"):
        open_checkpoint(url.replace("model", "other"))


def test_nobody_listens() -> None:
    with pytest.raises(SourceError):
        open_url("http://127.0.0.1:9/model.ckpt", timeout=2)


class Memory:
    """A transport over bytes that counts."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def suffix(self, length: int) -> tuple[bytes, int]:
        return self.data[-length:], len(self.data)

    def range(self, start: int, end: int) -> bytes:
        return self.data[start:end]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=40), st.booleans())
def test_a_directory_that_lies_costs_no_more_than_a_request(size: int, start: int, more: bytes, wide: bool) -> None:
    """What the end record and the first entry claim is never believed: every read gives the bytes that are there."""
    entry = b"PK\x01\x02" + bytes(16) + size.to_bytes(4, "little") + bytes(18) + start.to_bytes(4, "little") + more
    end = b"PK\x05\x06" + bytes(8) + bytes(4) + start.to_bytes(4, "little") + bytes(2)
    locator = b"PK\x06\x06" + bytes(44) + (start * size).to_bytes(8, "little") + b"PK\x06\x07" + bytes(16)
    data = bytes(range(256)) * 2000 + entry + (locator if wide else b"") + end
    source = RangeSource("x", Memory(data))
    assert source.read(0, 4096) == data[:4096]
    assert source.read(4000, 300_000) == data[4000:304_000]
    assert source.requests <= 4


def test_what_was_fetched_is_kept() -> None:
    data = bytes(range(256)) * 4096
    source = RangeSource("x", Memory(data))
    assert source.read(0, 10) == data[:10]
    assert source.read(100, 10) == data[100:110]
    assert source.read(len(data) - 5, 100) == data[-5:]
    assert source.read(len(data) + 5, 10) == b""
    assert source.requests == 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://host/a.ckpt", True),
        ("s3://bucket/a.ckpt", True),
        ("file:///a.ckpt", False),
        ("C:\\a.ckpt", False),
        ("a/b.ckpt", False),
        ("./http://x", False),
    ],
)
def test_what_is_a_url(path: str, expected: bool) -> None:
    assert is_url(path) is expected


def test_an_unknown_scheme_says_what_is_missing() -> None:
    with pytest.raises(SourceError):
        open_url("nosuch://bucket/a.ckpt")


def test_memory_files_by_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://models/m.ckpt", "wb") as file:
        file.write(contents(LARGE))
    remote = open_checkpoint("memory://models/m.ckpt")
    assert len(remote.tensors) == 60

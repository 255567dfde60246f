"""What `relight inspect URL` and `relight check URL` transfer: requests and bytes, beside a whole download.

    python benchmarks/remote_cost.py [--delay SECONDS]

A server in a child process answers requests for ranges, each after a delay as a distant one would. Files (made in a
temporary folder, sparse: only the pages that are read exist): 1 GB, 5 GB with the state of Adam, and 1 GB of
safetensors. Exits with 1 where a checkpoint takes more than two requests or more than 400 KiB.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from sparse_files import CHECKPOINTS

REQUESTS, BYTES = 2, 400 << 10
MAKE = (
    CHECKPOINTS
    + """
import json, struct
header, end = {}, 0
for i in range(151):
    for key, shape in ((f"layers.{i}.weight", [1730, 1024]), (f"layers.{i}.bias", [1024])):
        size = 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
raw = json.dumps(header).encode()
with open(f"{folder}/1GB.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(raw)) + raw)
    file.truncate(8 + len(raw) + end)
"""
)


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves the files of a folder by ranges; ``/log`` tells and forgets what was asked for."""

    folder = Path()
    delay = 0.0
    log: list[int] = []  # noqa: RUF012 -- one server, one list
    lock = threading.Lock()

    def do_GET(self) -> None:
        """A range, or the log."""
        if self.path == "/log":
            with self.lock:
                body = json.dumps(self.log).encode()
                self.log.clear()
            self._answer(200, body, "")
            return
        time.sleep(self.delay)
        path = self.folder / self.path.lstrip("/")
        size = path.stat().st_size
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()  # type: ignore[union-attr]
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(end - start)
        with self.lock:
            self.log.append(len(body))
        self._answer(206, body, f"bytes {start}-{end - 1}/{size}")

    def _answer(self, status: int, body: bytes, content_range: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def serve(folder: str, delay: str) -> None:
    """The child: say the port, then answer until the parent ends it."""
    Ranges.folder, Ranges.delay = Path(folder), float(delay)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    print(server.server_port, flush=True)
    server.serve_forever()


def main() -> int:
    """Measure, print a table, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", default="0.05", help="seconds before each answer")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.delay)
        return 0
    folder = tempfile.mkdtemp(prefix="relight-bench-")
    server = None
    missed = False
    try:
        subprocess.run([sys.executable, "-c", MAKE, folder], check=True)
        command = [sys.executable, __file__, "--serve", folder, "--delay", args.delay]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        root = f"http://127.0.0.1:{int(server.stdout.readline())}"
        print(
            f"{'file':<18} {'bytes':>13}  {'command':<8} {'requests':>8} {'transferred':>12} {'share':>10} {'seconds':>8}"
        )
        for name in sorted(os.listdir(folder)):
            size = os.path.getsize(Path(folder) / name)
            for verb in ("inspect", "check"):
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "relight", verb, f"{root}/{name}"], capture_output=True, check=False
                )
                seconds = time.perf_counter() - began
                with urllib.request.urlopen(f"{root}/log") as answer:
                    log = json.load(answer)
                over = done.returncode == 2 or len(log) > REQUESTS or sum(log) > BYTES
                missed |= over
                print(
                    f"{name:<18} {size:>13,}  {verb:<8} {len(log):>8} {sum(log):>12,} 1/{size / max(sum(log), 1):<8,.0f} "
                    f"{seconds:>8.2f}{'  MISSED' if over else ''}"
                )
    finally:
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

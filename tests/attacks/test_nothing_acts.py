"""In a process of its own: reading hostile and honest files executes, imports, writes and connects to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reader_files import checkpoint, name, state_dict, tensor, text

CORPUS = Path(__file__).parents[1] / "corpus" / "reader"

CHILD = r"""
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

def peak():
    # ru_maxrss starts at what the parent had; VmHWM is that of this program alone, where there is one.
    try:
        line = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

from relight.facts.safety import dangers, safety
from relight.reader import open_checkpoint
import encodings.latin_1, encodings.raw_unicode_escape, stringprep  # what decoding text needs

open_checkpoint(sys.argv[2])
safety(open_checkpoint(sys.argv[2]))
seen, watching = [], True
bad = ("exec", "compile", "pickle.", "marshal.", "ctypes.", "subprocess.", "socket.", "os.", "shutil.", "urllib.", "import")
harmless = ("os.listdir", "os.scandir", "os.walk")

def hook(event, args):
    if not watching:
        return
    if event == "open":
        if isinstance(args[1], str) and set(args[1]) & set("wax+"):
            seen.append(f"open {args[0]!r} {args[1]}")
    elif event.startswith(bad) and event not in harmless:
        seen.append(f"{event} {args!r}"[:200])

sys.addaudithook(hook)
verdicts = []
before = set(sys.modules)
for path in sys.argv[2:]:
    checkpoint = open_checkpoint(path)
    verdicts.append(safety(checkpoint).value)
    list(dangers(checkpoint))
watching = False
print(json.dumps({"seen": seen, "imported": sorted(set(sys.modules) - before), "verdicts": verdicts,
                  "mib": peak()}))
"""


def child(paths: list[Path], tmp_path: Path) -> dict[str, object]:
    marker = tmp_path / "marker"
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), *map(str, paths)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "RELIGHT_MARKER": str(marker)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_reading_does_nothing(tmp_path: Path) -> None:
    command = text(': >> "$RELIGHT_MARKER"')
    paths = [*sorted(CORPUS.glob("*.pt*")), *sorted(CORPUS.glob("*/*.ckpt")), CORPUS / "tiny.dcp"]
    for i, payload in enumerate(
        (
            name("posix", "system") + command + b"\x85R",
            name("builtins", "eval") + text("open('x', 'w')") + b"\x85R",
            name("this", "s"),
            name("antigravity", "x"),
            name("torch", "load") + text("/etc/passwd") + b"\x85R",
            b"(" + command + b"iposix\nsystem\n",
            name("urllib.request", "urlopen") + text("http://127.0.0.1:1") + b"\x85R",
            b"\x82\x01",
            b"B\xff\xff\xff\x7f",
        )
    ):
        path = tmp_path / f"{i}.ckpt"
        path.write_bytes(checkpoint(state_dict(w=tensor(), x=payload)))
        paths.append(path)
    found = child(paths, tmp_path)
    assert found["seen"] == []
    assert found["imported"] == []
    assert isinstance(found["mib"], int)
    assert found["mib"] < 256
    verdicts = found["verdicts"]
    assert isinstance(verdicts, list)
    assert verdicts[-9:] == ["dangerous"] * 8 + ["malformed"]


BOMBS = {
    "memo": b"K\x01r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.",
    "hash": b"})" + b"2\x86" * 60 + b"Ns.",
    "laughs": b"]" + b"2\x86" * 60 + b".",
    "length": b"\x8e" + b"\xff" * 8 + b".",
    "frame": b"\x95" + b"\xff" * 7 + b"\x7f.",
    "decimal": b"I" + b"9" * 100_000 + b"\n.",
    "nones": b"N" * 1_500_000 + b".",
    "dicts": b"}" * 900_000 + b".",
    "names": b"".join(b"cm\nn%d\n0" % i for i in range(20_000)) + b"N.",
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_cost_little(what: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    path.write_bytes(checkpoint(b"\x80\x02" + BOMBS[what]))
    found = child([path], tmp_path)
    assert isinstance(found["mib"], int)
    assert found["mib"] < 512
    # What is merely odd, or left on the stack, does no harm once it costs nothing.
    assert found["verdicts"] in (["malformed"], ["limit"]) or what in ("hash", "laughs", "dicts")

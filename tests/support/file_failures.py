"""Every known failure of files, formats and paths: files that have it, what relight says, or why it is not ours.

The table walks the catalogue's ids (``tests/corpus/causes_of_files.json``), so that none is forgotten.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle  # noqa: TID251 -- writes, reads nothing
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relight.rulekit.example import File
from relight.testing.recipes import contents

CORPUS = Path(__file__).parents[1] / "corpus"
BROKEN = CORPUS / "reader" / "broken"
_REAL = (CORPUS / "reader" / "checkpoints" / "E26-raw_state_dict.ckpt").read_bytes()
_LARGE = File(tensors={"net.weight": (400, 100)})
_WHOLE = contents(File())
_LEGACY = contents(File(legacy=True, tensors={"net.weight": (400, 100)}))


def _broken(name: str) -> Callable[[], bytes]:
    return (BROKEN / name).read_bytes


def _packed(**records: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in records.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return out.getvalue()


def _deflated() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_WHOLE)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


def _flipped(record: str) -> bytes:
    """One byte of a record's contents changed."""
    with zipfile.ZipFile(io.BytesIO(_WHOLE)) as archive:
        at = archive.getinfo(f"archive/{record}").header_offset
    start = at + 30 + int.from_bytes(_WHOLE[at + 26 : at + 28], "little") + int.from_bytes(
        _WHOLE[at + 28 : at + 30], "little"
    )  # fmt: skip
    return _WHOLE[:start] + bytes([_WHOLE[start] ^ 0xFF]) + _WHOLE[start + 1 :]


def _local_header_gone(record: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(_WHOLE)) as archive:
        at = archive.getinfo(f"archive/{record}").header_offset
    return _WHOLE[:at] + b"XXXX" + _WHOLE[at + 4 :]


def _data_pkl() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_WHOLE)) as archive:
        return archive.read("archive/data.pkl")


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("run/model.ckpt")
        info.size = len(_WHOLE)
        archive.addfile(info, io.BytesIO(_WHOLE))
    return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one id.

    Attributes:
        files: Files that have it, by what is special about each.
        rule: The rule that tells it.
        cause: The cause that the rule gives, where that is another id: what a file alone can tell is less.
        problem: Kind of the problem that `inspect` tells, where loading does not fail.
        unrestricted: Whether weights_only=False helps, so that a rule may advise it.
        elsewhere: The test that shows it, where files alone do not.
        outside: Why it is not relight's to tell.
    """

    files: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    rule: str = ""
    cause: str = ""
    problem: str = ""
    unrestricted: bool = False
    elsewhere: str = ""
    outside: str = ""


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 5160000000\n"
_NOT_A_CHECKPOINT, _CUT, _DAMAGED, _NOT_PLAIN = "RL101", "RL102", "RL103", "RL201"

KNOWN: dict[str, Known] = {
    # ------------------------------------------------------------ other things under a checkpoint's name
    "git-lfs-pointer": Known(files={"pointer": lambda: _POINTER}, rule=_NOT_A_CHECKPOINT),
    "git-annex-pointer": Known(
        files={"pointer": lambda: b"/annex/objects/SHA256E-s516--4d7a2146.ckpt\n"}, rule=_NOT_A_CHECKPOINT
    ),
    "html-page-saved": Known(
        files={
            "page": lambda: b"<!DOCTYPE html><html><title>Quota exceeded</title></html>",
            "blank line first": lambda: b"\n\n<html><body>404</body></html>",
            "byte order mark first": lambda: b"\xef\xbb\xbf<html></html>",
            "an object store's answer": _broken("xml_s3_error.ckpt"),
        },
        rule=_NOT_A_CHECKPOINT,
    ),
    "json-or-text-saved": Known(
        files={
            "object": lambda: b'{"error": "Repository not found"}',
            "list": lambda: b"[1, 2]",
            "text": lambda: b"Access to this model is restricted.\n",
            "yaml": lambda: b"model:\n  lr: 0.1\n",
        },
        rule=_NOT_A_CHECKPOINT,
    ),
    "compressed-or-other-format": Known(
        files={
            "gzip": lambda: gzip.compress(_WHOLE),
            "bzip2": lambda: bz2.compress(_WHOLE),
            "xz": lambda: lzma.compress(_WHOLE),
            "zstd": lambda: b"\x28\xb5\x2f\xfd" + bytes(50),
            "7z": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(50),
            "rar": lambda: b"Rar!\x1a\x07\x01\x00" + bytes(50),
            "HDF5": _broken("hdf5_like.ckpt"),
            "GGUF": _broken("gguf_like.ckpt"),
            "ONNX": lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\x10" + bytes(40),
            "npz": lambda: _packed(a_dot_npy=b"\x93NUMPY\x01\x00" + bytes(50)),
        },
        rule=_NOT_A_CHECKPOINT,
    ),
    "not-a-torch-pickle": Known(
        files={
            "protocol 2": lambda: pickle.dumps({"a": [1.0]}, 2),
            "protocol 5": lambda: pickle.dumps({"a": [1.0]}, 5),
            "data.pkl of an unpacked archive": _data_pkl,
        },
        rule=_NOT_A_CHECKPOINT,
    ),
    "safetensors-as-ckpt": Known(files={"weights": _broken("safetensors_as.ckpt")}, rule=_NOT_A_CHECKPOINT),
    "torchscript-archive": Known(files={"script": _broken("torchscript.ckpt")}, rule=_NOT_A_CHECKPOINT),
    "torch-export-archive": Known(files={"program": _broken("torch_export.pt2.ckpt")}, rule=_NOT_A_CHECKPOINT),
    "tar-wrapped": Known(files={"tar": _tar}, rule=_NOT_A_CHECKPOINT),
    "zip-no-subdirectory": Known(
        files={
            "a checkpoint in a zip": _broken("zipped_once_more.ckpt"),
            "records without their folder": lambda: contents(File(folder="")),
        },
        rule=_NOT_A_CHECKPOINT,
    ),
    # ------------------------------------------------------------ files that are cut
    "empty-file": Known(files={"no bytes": lambda: b""}, rule=_CUT),
    "zeros-file": Known(files={"long": lambda: bytes(6000), "short": lambda: bytes(100)}, rule=_CUT),
    "zip-no-central-directory": Known(files={"60 %": lambda: contents(_LARGE)[:96_000]}, rule=_CUT),
    "zip-truncated-small-oserror22": Known(files={"small": lambda: contents(_LARGE)[:7_000]}, rule=_CUT),
    "legacy-truncated": Known(
        files={
            "in a storage": lambda: _LEGACY[:-100],
            "in the pickle": lambda: _LEGACY[:150],
            "before the storages": lambda: _LEGACY[: -160_000 - 30],
        },
        rule=_CUT,
    ),
    "concurrent-write": Known(
        files={"so far": lambda: contents(_LARGE)[:80_000]}, rule=_CUT, cause="zip-no-central-directory"
    ),
    "save-failed-disk-full": Known(
        files={"a full disk": lambda: contents(_LARGE)[: 1 << 16] + bytes(1 << 16)},
        rule=_CUT,
        cause="zip-no-central-directory",
    ),
    # ------------------------------------------------------------ files that are damaged
    "zip-invalid-header": Known(files={"local header": lambda: _local_header_gone("data/1")}, rule=_DAMAGED),
    "zip-missing-record": Known(files={"a tensor": lambda: contents(File(without=("data/1",)))}, rule=_DAMAGED),
    "zip-no-version-record": Known(files={"version": lambda: contents(File(without=("version",)))}, rule=_DAMAGED),
    "zip-no-data-pkl": Known(files={"data.pkl": lambda: contents(File(without=("data.pkl",)))}, rule=_DAMAGED),
    "zip-encrypted": Known(files={"password": _broken("encrypted_zip.ckpt")}, rule=_DAMAGED),
    "pickle-stream-corrupt": Known(
        files={"changed": _broken("flipped_data_pkl.ckpt"), "a short record": _broken("short_record.ckpt")},
        rule=_DAMAGED,
    ),
    "bytes-before-archive": Known(
        files={
            "HTTP header": lambda: b"HTTP/1.1 200 OK\r\n\r\n" + _WHOLE,
            "one byte": lambda: b"\n" + _WHOLE,
            "like a pickle": lambda: b"(\x89zz" + _WHOLE,
        },
        rule=_DAMAGED,
    ),
    "crc-mismatch-silent": Known(
        files={"a value": lambda: _flipped("data/0")}, rule=_DAMAGED, problem="crc-mismatch"
    ),
    # ------------------------------------------------------------ harmless as long as nobody maps the file
    "bytes-after-archive": Known(
        files={"padding": _broken("trailing_garbage.ckpt"), "a second copy": lambda: _REAL + _REAL}, problem="bytes-after"
    ),
    "zip-records-compressed": Known(files={"deflated": _deflated}, problem="compressed-records"),
    # ------------------------------------------------------------ what the safe unpickler does not read
    "huge-int-in-pickle": Known(
        files={"seed": lambda: contents(File(hparams={"seed": 1 << 3000}))}, rule=_NOT_PLAIN, unrestricted=True
    ),
    "legacy-tar-format": Known(files={"0.1.9": lambda: contents(File(tar=True))}, rule=_NOT_PLAIN, unrestricted=True),
    "wrong-pickle-protocol": Known(
        files={"protocol 4": lambda: _protocol(4), "protocol 5": lambda: _protocol(5)},
        rule=_NOT_PLAIN,
        unrestricted=True,
    ),
    # ------------------------------------------------------------ told from more than the file
    "zip-in-old-torch": Known(rule="RL502", elsewhere="the examples of RL502: it takes an environment"),
    "folder-instead-of-file": Known(rule=_NOT_A_CHECKPOINT, elsewhere="test_a_folder"),
    "file-not-found": Known(elsewhere="test_paths_that_lead_nowhere"),
    "last-symlink-broken": Known(elsewhere="test_paths_that_lead_nowhere"),
    "ckpt-best-misuse": Known(elsewhere="test_paths_that_lead_nowhere"),
    "ckpt-last-none": Known(elsewhere="test_paths_that_lead_nowhere"),
    "ckpt-hpc-missing": Known(elsewhere="test_paths_that_lead_nowhere"),
    # ------------------------------------------------------------ not ours
    "ckpt-in-jit-load": Known(outside="a sound checkpoint, given to torch.jit.load, which check does not ask about"),
    "mmap-legacy": Known(outside="check does not ask about torch.load(mmap=True); the layout is in inspect"),
    "hub-zip-single-file": Known(outside="torch.hub of torch before 1.6, which unpacks what it downloads"),
    "colon-in-filename": Known(outside="an error of one fsspec (2023.12.1); today's opens such paths, and so does relight"),
    "hydra-equals-sign": Known(outside="Hydra refuses its own command line; no file is opened"),
    "sharded-remote-url": Known(outside="a Trainer shortens the URL of a folder; no file is opened"),
    "stale-hub-cache": Known(outside="whether a file in a cache is the newest is known to the server only"),
    "cross-device-save": Known(outside="an error while saving; there is no file"),
}  # fmt: skip


def _protocol(number: int) -> bytes:
    """A checkpoint whose object is pickled with another protocol, without tensors."""
    root = {"pytorch-lightning_version": "2.6.6", "state_dict": {}, "epoch": 1, "global_step": 2}
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_WHOLE)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = pickle.dumps(root, number) if info.filename.endswith("data.pkl") else old.read(info)
            new.writestr(info.filename, data)
    return out.getvalue()

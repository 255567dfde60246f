"""Answers of the child process, kept between runs: starting torch and Lightning costs seconds.

An answer is used again only if everything that it came from is as it was: every file of the user's that the child
read, the names in the folders that it imported from, the arguments, the checkpoint's plain data and the interpreter.
Failures are not kept: what mends them is often a file that was not there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Terminal bookkeeping that differs between two runs of the same command.
_VOLATILE = frozenset(["_", "SHLVL", "OLDPWD", "PWD", "COLUMNS", "LINES", "TERM", "COLORTERM", "NO_COLOR"])


def cache_folder() -> Path:
    """Where relight keeps what it can compute again: ``RELIGHT_CACHE_DIR``, else the platform's cache folder."""
    chosen = os.environ.get("RELIGHT_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "relight" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "relight"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relight"


def digest(value: object) -> str:
    """SHA-256 of the JSON form of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def load(key: str) -> dict[str, Any] | None:
    """The answer kept under a key, None if there is none or what it came from has changed."""
    try:
        entry = json.loads((_folder() / f"{key}.json").read_text(encoding="utf-8"))
        if all(_still(f) for f in entry["files"]) and entry["names"] == _names(entry["folders"]):
            answer = entry["answer"]
            if entry["environ"] in (None, _environ()) and isinstance(answer, dict):
                return answer
    except Exception:  # unreadable, half written, of another version: a cache is never a reason to fail
        return None
    return None


def store(key: str, answer: dict[str, Any], files: list[str], folders: list[str]) -> None:
    """Keep an answer. Does nothing where the folder cannot be written."""
    temporary = None
    try:
        seen = [_fingerprint(f) for f in files]
        reads_environ = any(f[3] for f in seen)
        entry = {
            "answer": answer,
            "files": [f[:3] for f in seen],
            "folders": folders,
            "names": _names(folders),
            "environ": _environ() if reads_environ else None,
        }
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(entry, f)
        os.replace(temporary, folder / f"{key}.json")
        temporary = None
    except Exception:  # a full or read-only disk, a file that went away meanwhile: next time is slow again
        return
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _folder() -> Path:
    return cache_folder() / "specs"


def _fingerprint(path: str) -> tuple[str, int, str, bool]:
    data = Path(path).read_bytes()
    return path, len(data), hashlib.sha256(data).hexdigest(), b"environ" in data or b"getenv" in data


def _still(known: list[Any]) -> bool:
    path, size, sha = known
    return bool(os.stat(path).st_size == size and _fingerprint(path)[2] == sha)


def _names(folders: list[str]) -> str:
    """Digest of what could be imported from some folders: a new file there may change what an import finds."""
    return digest([_importable_names(f) for f in folders])


def _importable_names(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if _importable(e))
    except OSError:
        return []


def _importable(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    if name.startswith(".") or name == "__pycache__":
        return False
    return name.endswith((".py", ".so", ".pyd", ".pth", ".dist-info")) or ("." not in name and entry.is_dir())


def _environ() -> str:
    return digest({k: v for k, v in os.environ.items() if k not in _VOLATILE})

"""``[tool.relight]`` of the nearest pyproject.toml: what a project always asks, so that nobody has to type it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relight.core.errors import UsageError

_INTENTS = ("load", "resume", "weights")
_KEYS = (
    "baseline",
    "env",
    "for",
    "hparams-file",
    "ignore",
    "map-location",
    "python",
    "select",
    "strict",
    "target",
    "weights-only",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the file says; None and empty where it says nothing.

    Attributes:
        path: The file, None where there is none.
        select: Rules whose findings are wanted.
        ignore: Rule to the reason why its findings are not wanted.
        target: Like ``--target``, relative to the working directory.
        intent: Like ``--for``.
        python: Like ``--python``.
        env: Like ``--env``, as ``NAME==VERSION``.
        baseline: Like ``--baseline``.
        strict: Like ``--strict``.
        weights_only: Like ``--weights-only``.
        map_location: Like ``--map-location``.
        hparams_file: Like ``--hparams-file``.
    """

    path: str | None = None
    select: tuple[str, ...] | None = None
    ignore: Mapping[str, str] = field(default_factory=dict)
    target: tuple[str, ...] = ()
    intent: str | None = None
    python: str | None = None
    env: tuple[str, ...] = ()
    baseline: str | None = None
    strict: bool | None = None
    weights_only: bool | None = None
    map_location: str | None = None
    hparams_file: str | None = None


def settings(folder: str | os.PathLike[str] | None = None) -> Settings:
    """Those of the nearest pyproject.toml with such a table, from a folder upwards.

    Args:
        folder: Where to begin; None for the working directory.

    Raises:
        UsageError: The file is no TOML, or the table holds what relight does not know.
    """
    here = Path.cwd() if folder is None else Path(folder).absolute()
    for place in (here, *here.parents):
        file = place / "pyproject.toml"
        try:
            text = file.read_bytes()
        except OSError:
            continue
        # Reading it costs more than an answer that needs no torch: most projects say nothing of relight.
        if b"relight" not in text:
            continue
        table = _table(file, text)
        if table is not None:
            return _read(table, file)
    return Settings()


def _table(file: Path, text: bytes) -> dict[str, Any] | None:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        whole = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{_shown(file)} is no TOML: {error}") from None
    tools = whole.get("tool")
    table = tools.get("relight") if isinstance(tools, dict) else None
    return table if isinstance(table, dict) else None


def _read(table: Mapping[str, Any], file: Path) -> Settings:
    where = f"{_shown(file)}: [tool.relight]"
    for key in table:
        if key not in _KEYS:
            from difflib import get_close_matches

            close = get_close_matches(key.replace("_", "-"), _KEYS, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"It may hold: {', '.join(_KEYS)}."
            raise UsageError(f"{where} has no setting {key!r}", hint)

    def fail(key: str, wanted: str) -> UsageError:
        return UsageError(f"{where}: {key} is {wanted}")

    def text(key: str) -> str | None:
        value = table.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise fail(key, "a text")
        return value

    def flag(key: str) -> bool | None:
        value = table.get(key)
        if value is not None and not isinstance(value, bool):
            raise fail(key, "true or false")
        return value

    def texts(key: str) -> tuple[str, ...] | None:
        value = table.get(key)
        listed = [value] if isinstance(value, str) else value
        if listed is None:
            return None
        if not isinstance(listed, list) or not all(isinstance(v, str) and v for v in listed):
            raise fail(key, "a list of texts")
        return tuple(listed)

    ignore = table.get("ignore", {})
    if not isinstance(ignore, dict) or not all(isinstance(r, str) and r.strip() for r in ignore.values()):
        raise UsageError(f"{where}: ignore is a table of rules and reasons", 'As in: ignore = {layer-added = "why"}')
    intent = text("for")
    if intent is not None and intent not in _INTENTS:
        raise fail("for", f"one of {', '.join(_INTENTS)}")
    python, baseline, hparams_file = text("python"), text("baseline"), text("hparams-file")
    if python is not None and "env" in table:
        raise UsageError(f"{where}: env and python both say where; keep one of them")
    return Settings(
        path=_shown(file),
        select=texts("select"),
        ignore=dict(ignore),
        target=tuple(_target(t, file.parent) for t in texts("target") or ()),
        intent=intent,
        python=_beside(python, file.parent) if python and ("/" in python or os.sep in python) else python,
        env=texts("env") or (),
        baseline=baseline and _beside(baseline, file.parent),
        strict=flag("strict"),
        weights_only=flag("weights-only"),
        map_location=text("map-location"),
        hparams_file=hparams_file and _beside(hparams_file, file.parent),
    )


def _target(target: str, folder: Path) -> str:
    """A target whose file is meant relative to the settings, as seen from the working directory."""
    file, colon, name = target.rpartition(":")
    if not colon or os.path.splitdrive(target)[0] == f"{file}:":
        file, colon, name = target, "", ""
    return f"{_beside(file, folder)}{colon}{name}" if file.endswith((".py", ".json")) else target


def _beside(path: str, folder: Path) -> str:
    if "://" in path or os.path.isabs(path):
        return path
    try:
        return os.path.relpath(folder / path)
    except ValueError:  # on another drive
        return str(folder / path)


def _shown(file: Path) -> str:
    return _beside(str(file.name), file.parent)

"""Where a training program runs: versions, devices, the commit of its code, its command line without secrets."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

_SECONDS = 2.0  # a repository on a slow network folder must not hold up a training
_SECRET = re.compile(r"key|token|secret|passw|pwd|credential|auth|bearer|private", re.IGNORECASE)
_LONG = re.compile(r"^(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_\-+/=]{24,}$")
# How the tokens of well-known services begin, and a JSON web token: shorter, or with dots.
_KNOWN = re.compile(r"^(sk-|sk_|pk_|gh[pousr]_|github_pat_|hf_|glpat-|xox[abprs]-|AKIA|ASIA|eyJ[\w-]+\.)[\w.\-]{8,}$")
_INSIDE = re.compile(rf"({_SECRET.pattern})[\w\-]*['\"]?\s*[:=]\s*", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
HIDDEN = "***"


def environment(torch: ModuleType | None) -> dict[str, Any]:
    """Python, platform, the distributions that were imported, and the devices."""
    out: dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": sys.platform,
        "machine": platform.machine(),
        "packages": packages(),
    }
    if torch is not None:
        out.update(_devices(torch))
    return out


def distributions(architecture: Any) -> dict[str, list[str]]:
    """By which distributions the packages came that define layers: ``open_clip`` is in open-clip-torch."""
    rows = architecture.get("modules") if isinstance(architecture, dict) else None
    wanted = sorted({row["package"] for row in rows or () if row.get("package")})
    known = _distributions()
    return {name: sorted({_normal(d) for d in known[name]}) for name in wanted if name in known}


@functools.lru_cache(maxsize=1)  # it reads the list of files of everything that is installed
def _distributions() -> dict[str, list[str]]:
    return {name: list(found) for name, found in importlib.metadata.packages_distributions().items()}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def packages() -> dict[str, str]:
    """Every distribution of which this program has imported something, with its version."""
    imported = {name.partition(".")[0] for name in list(sys.modules)}
    out: dict[str, str] = {}
    for top, distributions in _distributions().items():
        if top not in imported:
            continue
        for distribution in distributions:
            normal = _normal(distribution)
            if normal not in out:
                out[normal] = importlib.metadata.version(distribution)
    torch = sys.modules.get("torch")
    if torch is not None:
        out["torch"] = str(torch.__version__)  # with the build: 2.13.0+cpu
    return dict(sorted(out.items()))


def _devices(torch: ModuleType) -> dict[str, Any]:
    out: dict[str, Any] = {"cuda": torch.version.cuda, "cudnn": None, "driver": None, "devices": []}
    # Asking a library that has not been started yet would start it, in a program that may not want that.
    if torch.version.cuda is not None and torch.cuda.is_initialized():
        out["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        out["cudnn"] = torch.backends.cudnn.version()
        driver = "/proc/driver/nvidia/version"
        if os.path.exists(driver):
            with open(driver, encoding="utf-8", errors="replace") as file:
                found = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", file.readline())
            out["driver"] = None if found is None else found.group(1)
    return out


def repository(folder: str) -> dict[str, Any] | None:
    """Commit of the code, and whether files that git follows were changed since; None where there is no repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "changed": None if changed is None else bool(changed.strip())}


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def command_line(arguments: list[str]) -> list[str]:
    """A command line with what may be a secret replaced by three asterisks; too much of it rather than too little."""
    out: list[str] = []
    hide = False
    for argument in arguments[:200]:
        if hide and not argument.startswith("--"):
            out.append(HIDDEN)
            hide = False
            continue
        name, equals, value = argument.partition("=")
        hide = argument.startswith("-") and not equals and bool(_SECRET.search(argument))
        if equals and (_SECRET.search(name) or _LONG.match(value) or _KNOWN.match(value)):
            out.append(f"{name}={HIDDEN}")
        elif _KNOWN.match(argument) or (_LONG.match(argument) and not os.path.exists(argument)):
            out.append(HIDDEN)
        else:
            # What has several parts, as an address with a query or a dict, ends where the first secret begins.
            inside = _INSIDE.search(argument)
            if inside is not None:
                argument = argument[: inside.end()] + HIDDEN
            out.append(_LOGIN.sub(f"{HIDDEN}@", argument)[:500])
    return out

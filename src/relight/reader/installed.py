"""What an interpreter has installed, read from its folders: nothing is imported, in this process or another.

Only for another interpreter a process is started, which prints ``sys.path`` and its version and does nothing else.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.machinery import EXTENSION_SUFFIXES

from relight.core.errors import UsageError
from relight.core.target import Environment

_DIST_INFO = re.compile(r"^(.+?)-([^-]+)\.dist-info$")
_EGG_INFO = re.compile(r"^(.+?)-([^-]+?)(?:-py\d[\d.]*)?(?:-[\w.]+)?\.egg-info$")
_EDITABLE = re.compile(r"^__editable___.*_finder\.py$")
_MAPPING = re.compile(r"^MAPPING\b[^=]*=\s*(\{.*\})\s*$", re.MULTILINE)
_ASK = (
    "import sys,json;print(json.dumps({'path':sys.path,'python':'.'.join(map(str,sys.version_info[:3])),"
    "'platform':sys.platform}))"
)


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it: ``pytorch-lightning``."""
    return re.sub(r"[-_.]+", "-", name).lower()


# ---------------------------------------------------------------- environments


def current_environment() -> Environment:
    """The Environment of the interpreter that runs relight, with the working directory last on its path."""
    # What loads the file is a script of the user's: it finds what lies beside it, which the console script does not.
    path = [*(p for p in sys.path if p), os.getcwd()]
    return environment_from(path, python=".".join(str(n) for n in sys.version_info[:3]), platform=sys.platform)


def environment_of(python: str | None) -> Environment:
    """The Environment of an interpreter.

    Args:
        python: Path of its executable, or of a virtual environment's folder; None for the one that runs relight.

    Raises:
        UsageError: It cannot be run, or it is not a Python.
    """
    if python is None:
        return current_environment()
    python = executable(python)
    try:
        # Without -E or -I: the user's PYTHONPATH counts.
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=60, check=True)
        answer = json.loads(done.stdout.splitlines()[-1])
        path, version, platform = list(answer["path"]), str(answer["python"]), str(answer["platform"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as exc:
        raise UsageError(f"{python} does not run as a Python interpreter: {exc}") from exc
    return environment_from([*(p for p in path if p), os.getcwd()], python=version, platform=platform, origin=python)


def executable(python: str) -> str:
    """The interpreter that a path means: itself, or the one inside a virtual environment's folder."""
    if os.path.isdir(python):
        for inner in ("bin/python", "Scripts/python.exe"):
            if os.path.isfile(os.path.join(python, inner)):
                return os.path.join(python, inner)
    return python


def environment_from(
    search_path: Iterable[str],
    *,
    python: str | None,
    platform: str | None,
    origin: str = "this machine",
    cuda_devices: int | None = None,
    mps: bool | None = None,
) -> Environment:
    """An Environment from a search path, by listing its folders.

    Args:
        search_path: Folders that modules are imported from, in order.
        python: Version.
        platform: ``sys.platform``.
        origin: Where this knowledge comes from.
        cuda_devices: Number of CUDA devices where torch itself has counted them; else it is looked up without torch.
        mps: Whether MPS is available where torch itself was asked.
    """
    folders = tuple(dict.fromkeys(os.path.abspath(p) for p in search_path))
    packages: dict[str, str] = {}
    modules: set[str] = set()
    for folder in folders:
        found, names = _listing(folder)
        for name, version in found.items():
            packages.setdefault(name, version)
        if not os.path.isfile(os.path.join(folder, "os.py")):  # the standard library
            modules |= names
    torch = packages.get("torch")
    if cuda_devices is None:
        cuda_devices = 0 if torch is not None and torch.endswith("+cpu") else count_cuda_devices()
    return Environment(
        python=python,
        platform=platform,
        packages=packages,
        complete=True,
        cuda_devices=cuda_devices,
        mps=_mps(platform) if mps is None else mps,
        memory=available_memory(),
        search_path=folders,
        modules=frozenset(modules - sys.stdlib_module_names),
        origin=origin,
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _listing(folder: str) -> tuple[dict[str, str], set[str]]:
    """Distributions (name to version) and importable names of one folder."""
    packages: dict[str, str] = {}
    modules: set[str] = set()
    for entry in _entries(folder):
        name = entry.name
        if name.endswith((".dist-info", ".egg-info")):
            match = _DIST_INFO.match(name) or _EGG_INFO.match(name)
            version = match.group(2) if match else _version_inside(entry.path)
            if version is not None:
                packages[normalised(match.group(1) if match else name.rpartition(".")[0])] = version
        elif name.endswith(".py"):
            stem = name[:-3]
            if _EDITABLE.match(name):
                modules |= set(_editable(entry.path) or ())
            elif stem.isidentifier():
                modules.add(stem)
        elif name.endswith((*EXTENSION_SUFFIXES, ".so", ".pyd")):
            modules.add(name.split(".")[0])
        elif name.isidentifier() and name != "__pycache__" and entry.is_dir():
            modules.add(name)
    return packages, modules


def _version_inside(path: str) -> str | None:
    """Version of ``name.egg-info`` (a development install), from its PKG-INFO."""
    for inner in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(path, inner), encoding="utf-8", errors="replace") as f:
                for line in f:
                    if line.startswith("Version:"):
                        return line.split(":", 1)[1].strip()
                    if not line.strip():
                        break
        except OSError:
            continue
    return None


def _editable(path: str) -> Mapping[str, str] | None:
    """Module name to path of an editable install by import hook; None if it cannot be told."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            match = _MAPPING.search(f.read())
        mapping = ast.literal_eval(match.group(1)) if match else None
    except (OSError, ValueError, SyntaxError):
        return None
    if not isinstance(mapping, dict):
        return None
    return {str(k): str(v) for k, v in mapping.items()}


# ---------------------------------------------------------------- devices and memory


def count_cuda_devices() -> int | None:
    """CUDA devices that a program here would see, counted without torch; None if that cannot be told."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None
    if visible is not None:
        chosen = 0
        for part in visible.split(","):
            if not part.strip() or part.strip().startswith("-"):
                break  # CUDA stops at the first invalid one
            chosen += 1
        if chosen == 0:
            return 0
    if sys.platform == "darwin":
        return 0
    if not sys.platform.startswith("linux"):
        return None
    try:
        present = len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        # WSL and ROCm have devices without this folder.
        if os.path.exists("/dev/dxg") or os.path.exists("/dev/kfd"):
            return None
        present = 0
    return present if chosen is None else min(present, chosen)


def _mps(platform: str | None) -> bool | None:
    if platform is None:
        return None
    if platform != "darwin":
        return False
    return True if os.uname().machine == "arm64" else None


def available_memory() -> int | None:
    """Bytes of RAM that a new process could get, None if unknown. Limits of a container count."""
    free: int | None = None
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            free = next((int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as f:
            most = int(f.read())
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as f:
            left = most - int(f.read())
        free = left if free is None else min(free, max(left, 0))
    except (OSError, ValueError):
        pass
    return free


# ---------------------------------------------------------------- modules


class ModuleStatus(str, Enum):
    """Whether a module can be imported somewhere."""

    SOURCE = "source"  # a .py file: `Resolved.path`
    EXTENSION = "extension"  # compiled: its names cannot be read
    NAMESPACE = "namespace"  # a folder without __init__.py: `Resolved.path` is the folder
    STDLIB = "stdlib"  # built in or part of the standard library; `Resolved.path` where there is a source file
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the environment does not say where its modules are


@dataclass(frozen=True, slots=True)
class Resolved:
    """What importing a module would find.

    Attributes:
        status: Whether, and of what kind.
        path: Its source file, or its folder for a namespace package.
        missing: The first part of the dotted name that is not there, for ABSENT: ``pkg.sub``.
    """

    status: ModuleStatus
    path: str | None = None
    missing: str | None = None


def resolve_module(name: str, environment: Environment) -> Resolved:
    """Where importing a dotted name would lead in an environment, found by looking into folders.

    Args:
        name: ``package.module``.
        environment: With a ``search_path``; without one only ``modules`` can tell what is absent.
    """
    top = name.split(".")[0]
    if name in sys.builtin_module_names:
        return Resolved(ModuleStatus.STDLIB)
    standard = top in sys.stdlib_module_names
    if not environment.search_path:
        if standard:
            return Resolved(ModuleStatus.STDLIB)
        if environment.modules is not None and top not in environment.modules:
            return Resolved(ModuleStatus.ABSENT, missing=top)
        return Resolved(ModuleStatus.UNKNOWN)
    folders = list(environment.search_path)
    found = Resolved(ModuleStatus.ABSENT, missing=top)
    parts = name.split(".")
    for depth, part in enumerate(parts):
        found, inside = _look(part, folders)
        if found.status is ModuleStatus.ABSENT and depth == 0:
            found, inside = _look_editable(part, folders)
        if found.status is ModuleStatus.ABSENT:
            if standard and depth == 0:
                return Resolved(ModuleStatus.STDLIB)  # from a zip file, or of another platform's Python
            if depth == 0 and _has_archives(folders):
                return Resolved(ModuleStatus.UNKNOWN)
            return Resolved(ModuleStatus.ABSENT, missing=".".join(parts[: depth + 1]))
        last = depth == len(parts) - 1
        if not last and not inside:
            # A module that is no package may still put submodules into sys.modules (os.path, six.moves).
            if standard:
                return Resolved(ModuleStatus.STDLIB)
            return Resolved(ModuleStatus.UNKNOWN)
        folders = inside
    if standard:
        path = found.path if found.status is ModuleStatus.SOURCE else None
        return Resolved(ModuleStatus.STDLIB, path)
    return found


def is_compiled(file: str, module: str) -> bool:
    """Whether the package that a module belongs to has compiled parts, which may put names into any of its modules.

    Args:
        file: Source file of the module.
        module: Its dotted name.
    """
    depth = module.count(".") + (os.path.basename(file) == "__init__.py")
    folder = os.path.dirname(file)
    for _ in range(depth - 1):
        folder = os.path.dirname(folder)
    if depth == 0:
        return False  # a single file
    endings = tuple(EXTENSION_SUFFIXES)
    return any(name.endswith(endings) for _, _, files in os.walk(folder) for name in files)


def _look(name: str, folders: list[str]) -> tuple[Resolved, list[str]]:
    """One step of an import: what ``name`` is in these folders, and where its own submodules are."""
    namespace: list[str] = []
    for folder in folders:
        base = os.path.join(folder, name)
        initial = os.path.join(base, "__init__.py")
        if os.path.isfile(initial):
            return Resolved(ModuleStatus.SOURCE, initial), [base, *_legacy_namespace(initial, name, folders)]
        for suffix in EXTENSION_SUFFIXES:
            if os.path.isfile(os.path.join(base, "__init__" + suffix)):
                return Resolved(ModuleStatus.EXTENSION), [base]
            if os.path.isfile(base + suffix):
                return Resolved(ModuleStatus.EXTENSION), []
        if os.path.isfile(base + ".py"):
            return Resolved(ModuleStatus.SOURCE, base + ".py"), []
        if os.path.isdir(base):
            namespace.append(base)
    if namespace:
        return Resolved(ModuleStatus.NAMESPACE, namespace[0]), namespace
    return Resolved(ModuleStatus.ABSENT), []


def _legacy_namespace(initial: str, name: str, folders: list[str]) -> list[str]:
    """Other folders of a package that extends its ``__path__`` (pkgutil, pkg_resources)."""
    try:
        with open(initial, "rb") as f:
            if b"__path__" not in f.read(20000):
                return []
    except OSError:
        return []
    return [p for p in (os.path.join(f, name) for f in folders) if os.path.isdir(p) and p != os.path.dirname(initial)]


def _look_editable(name: str, folders: list[str]) -> tuple[Resolved, list[str]]:
    for folder in folders:
        for entry in _entries(folder):
            target = (_editable(entry.path) or {}).get(name) if _EDITABLE.match(entry.name) else None
            if target is None:
                continue
            if os.path.isdir(target):
                initial = os.path.join(target, "__init__.py")
                if os.path.isfile(initial):
                    return Resolved(ModuleStatus.SOURCE, initial), [target]
                return Resolved(ModuleStatus.NAMESPACE, target), [target]
            return Resolved(ModuleStatus.SOURCE, target), []
    return Resolved(ModuleStatus.ABSENT), []


def _has_archives(folders: list[str]) -> bool:
    """Whether modules can also come out of zip files other than the standard library's."""
    return any(os.path.isfile(f) and not re.search(r"python\d+\.zip$", f) for f in folders)

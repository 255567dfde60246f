"""What Python source says, found by parsing it: nothing here is imported or run."""

from __future__ import annotations

import ast
import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Where other people's code lives, or none at all.
_SKIPPED = frozenset({"node_modules", "site-packages", "dist-packages", "__pycache__", "venv", "env", "build", "dist"})
_LARGEST_FILE = 1 << 20  # generated code, not where somebody writes a model
_CLASS = re.compile(rb"^[ \t]*class[ \t]+(\w+)[ \t]*\(([^:]*?)\)[ \t]*:", re.MULTILINE)
_ALIAS = re.compile(rb"\bLightningModule[ \t]+as[ \t]+(\w+)")
_LAST_NAME = re.compile(rb"(\w+)[ \t]*(?:\[[^\]]*\])?$")

# Every module has these without a statement that binds them.
_IMPLICIT = frozenset(
    f"__{n}__" for n in ["name", "doc", "file", "package", "loader", "spec", "path", "dict", "builtins"]
)
_DYNAMIC = re.compile(r"\bglobals\(\)|\bvars\(\)|\blocals\(\)|\bsys\.modules\[__name__\]|\bexec\(")


@dataclass(frozen=True, slots=True)
class ClassLocation:
    """Where a class or function is defined.

    Attributes:
        name: Its name.
        file: Path relative to the searched folder, with forward slashes.
        line: Line of the ``class`` or ``def``.
    """

    name: str
    file: str
    line: int

    @property
    def module(self) -> str:
        """The dotted name by which the folder's root would import the file."""
        parts = self.file.removesuffix(".py").split("/")
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SourceTree:
    """The Python files under a folder, read once.

    Virtual environments, hidden folders, ``site-packages``, ``node_modules`` and files over a megabyte are left out.

    Args:
        folder: Where to look.
        limit: How many files to look into at most.

    Attributes:
        folder: Where was looked.
        files_parsed: How many files were looked into.
        truncated: Whether there were more than ``limit``.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = 5000) -> None:
        self.folder = Path(folder)
        self.truncated = False
        self._sources: dict[str, bytes] = {}
        self._trees: dict[str, ast.Module | None] = {}
        for path in self._walk(limit):
            with contextlib.suppress(OSError):
                self._sources[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        self.files_parsed = len(self._sources)

    def _walk(self, limit: int) -> Iterator[Path]:
        for root, folders, files in os.walk(self.folder):
            folders[:] = sorted(f for f in folders if not _is_skipped(root, f))
            for name in sorted(files):
                if not name.endswith(".py") or name.startswith("."):
                    continue
                path = Path(root, name)
                try:
                    if path.stat().st_size > _LARGEST_FILE:
                        continue
                except OSError:
                    continue
                if limit <= 0:
                    self.truncated = True
                    return
                limit -= 1
                yield path

    def _tree(self, file: str) -> ast.Module | None:
        if file not in self._trees:
            self._trees[file] = _parse(self._sources[file])
        return self._trees[file]

    def lightning_modules(self) -> list[ClassLocation]:
        """Classes with LightningModule among their bases, also through other classes of this folder.

        Returns:
            Top-level classes in order of file and line.
        """
        # A search by pattern first: parsing is fifty times as slow, and most files define no model at all.
        found: dict[str, list[tuple[str, set[str]]]] = {}
        aliases: dict[str, set[str]] = {}
        for file, source in self._sources.items():
            if b"class" not in source:
                continue
            aliases[file] = {m.decode("ascii", "replace") for m in _ALIAS.findall(source)}
            classes = [(name.decode("utf-8", "replace"), _bases(bases)) for name, bases in _CLASS.findall(source)]
            if classes:
                found[file] = classes
        wanted = {"LightningModule"}
        while True:
            more = {
                name
                for file, classes in found.items()
                for name, bases in classes
                if name not in wanted and bases & (wanted | aliases[file])
            }
            if not more:
                break
            wanted |= more
        out: list[ClassLocation] = []
        for file, classes in found.items():
            names = wanted | aliases[file]
            if not any(bases & names for _, bases in classes):
                continue
            tree = self._tree(file)
            out.extend(
                ClassLocation(node.name, file, node.lineno)
                for node in _statements(tree.body if tree is not None else [])
                if isinstance(node, ast.ClassDef) and {_name(b) for b in node.bases} & names
            )
        return sorted(out, key=lambda c: (c.file, c.line))

    def attributes(self, location: ClassLocation) -> frozenset[str]:
        """Names that a class and its bases in this folder assign to ``self``: what its keys would begin with."""
        out: set[str] = set()
        seen: set[str] = set()
        todo = [location]
        while todo:
            place = todo.pop()
            tree = self._tree(place.file)
            for node in _statements(tree.body if tree is not None else []):
                if isinstance(node, ast.ClassDef) and node.name == place.name and node.lineno == place.line:
                    out.update(
                        n.attr
                        for n in ast.walk(node)
                        if isinstance(n, ast.Attribute)
                        and isinstance(n.ctx, ast.Store)
                        and isinstance(n.value, ast.Name)
                        and n.value.id == "self"
                    )
                    bases = {_name(b) for b in node.bases} - seen - {"LightningModule"}
                    seen |= bases
                    todo += [found for base in sorted(bases) if base for found in self.classes_named(base)[:1]]
        return frozenset(out)

    def classes_named(self, name: str) -> list[ClassLocation]:
        """Classes and functions of this name at the top level of a file, those nearest to the folder first."""
        defined = rb"^[ \t]*(?:class|(?:async[ \t]+)?def)[ \t]+%s\b" % re.escape(name.encode())
        pattern = re.compile(defined, re.MULTILINE)
        out: list[ClassLocation] = []
        for file, source in self._sources.items():
            if not pattern.search(source):
                continue
            tree = self._tree(file)
            out.extend(
                ClassLocation(name, file, node.lineno)
                for node in _statements(tree.body if tree is not None else [])
                if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
            )
        return sorted(out, key=lambda c: (c.file.count("/"), c.file, c.line))

    def modules_named(self, name: str) -> list[str]:
        """Files that are a module of this dotted name when their folder, or one above it, is on the path.

        Returns:
            Paths relative to the folder: ``training/my_custom_module.py``, ``lib/pkg/__init__.py``.
        """
        tail = name.replace(".", "/")
        endings = (f"{tail}.py", f"{tail}/__init__.py")
        found = [f for f in self._sources if f in endings or f.endswith(tuple("/" + e for e in endings))]
        return sorted(found, key=lambda f: (f.count("/"), f))


def _is_skipped(root: str, folder: str) -> bool:
    if folder in _SKIPPED or folder.startswith("."):
        return True
    return os.path.exists(os.path.join(root, folder, "pyvenv.cfg"))  # a virtual environment under any name


def _bases(text: bytes) -> set[str]:
    out = set()
    for part in text.split(b","):
        match = _LAST_NAME.search(part.strip())
        if match and b"=" not in part:
            out.add(match.group(1).decode("utf-8", "replace"))
    return out


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _parse(source: bytes) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module that run when it is imported, also those under if, try, with, for and while."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)
        for case in getattr(node, "cases", []):
            yield from _statements(case.body)


def _stored(node: ast.AST) -> Iterator[str]:
    yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def module_names(file: str | os.PathLike[str]) -> frozenset[str] | None:
    """Names that a module has at its top level.

    Returns:
        The names; None when they cannot be told by reading: a star import, a module ``__getattr__``, names put in by
        ``globals()``, or a file that cannot be read or parsed.
    """
    try:
        source = Path(file).read_bytes()
    except OSError:
        return None
    tree = _parse(source)
    if tree is None or _DYNAMIC.search(source.decode("utf-8", "replace")):
        return None
    out = set(_IMPLICIT)
    package = os.path.basename(file) == "__init__.py"
    for node in _statements(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            out.add(node.name)
        elif isinstance(node, ast.Import):
            out.update(a.asname or a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            if any(a.name == "*" for a in node.names):
                return None
            out.update(a.asname or a.name for a in node.names)
            if package and node.level == 1 and node.module:
                out.add(node.module.split(".")[0])  # importing a submodule binds it in its package
        elif isinstance(node, ast.Try):
            out.update(h.name for h in node.handlers if h.name)
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            if not isinstance(node, ast.AnnAssign) or node.value is not None:
                out.update(_stored(node))
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            out.update(_stored(node.target))
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            out.update(n for item in node.items if item.optional_vars is not None for n in _stored(item.optional_vars))
        elif isinstance(node, (ast.Expr, ast.If, ast.While)):
            test = node.value if isinstance(node, ast.Expr) else node.test
            out.update(n.target.id for n in ast.walk(test) if isinstance(n, ast.NamedExpr))
    out.update(n for node in ast.walk(tree) if isinstance(node, ast.Global) for n in node.names)
    return None if "__getattr__" in out else frozenset(out)


def enum_values(file: str | os.PathLike[str], class_name: str) -> tuple[object, ...] | None:
    """Values of the members of an enum class, in order.

    Returns:
        The values; None when the class is not there, is not written as an enum of literals, or uses ``auto()``.
    """
    try:
        tree = _parse(Path(file).read_bytes())
    except OSError:
        return None
    body: list[ast.stmt] = [] if tree is None else tree.body
    found: ast.ClassDef | None = None
    for part in class_name.split("."):
        found = next((n for n in _statements(body) if isinstance(n, ast.ClassDef) and n.name == part), None)
        if found is None:
            return None
        body = found.body
    if found is None or not any(_name(b).endswith(("Enum", "Flag")) for b in found.bases):
        return None
    out: list[object] = []
    for node in found.body:
        if not isinstance(node, ast.Assign) or not all(isinstance(t, ast.Name) for t in node.targets):
            continue
        names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        if any(n.startswith("_") for n in names):
            continue
        try:
            out.append(ast.literal_eval(node.value))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return tuple(out)

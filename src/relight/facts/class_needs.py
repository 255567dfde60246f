"""Where a target's source needs more of an object than its values: asks for its class, or hands it to its library."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from relight.facts.facts import Facts

_LARGEST = 4 << 20  # bytes of a source that is parsed
_MOST = 3
# Functions of a library that take its own objects only.
_LIBRARIES = {"omegaconf": ("OmegaConf",), "numpy": (), "pathlib": ()}


def needs(facts: Facts, names: Iterable[str]) -> list[str]:
    """Lines of the target's own file that plain data in the place of objects does not answer, ``models.py:12: ...``.

    ``isinstance`` with one of the classes, and calls of OmegaConf; parsed, never run. An empty list where there is no
    target, or no such line.

    Args:
        facts: All that is known.
        names: Full names of the classes that would be replaced.
    """
    file = facts.resolved_target.file if facts.has_target else None
    if file is None:
        return []
    try:
        with open(file, encoding="utf-8") as source:
            text = source.read(_LARGEST)
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    listed = list(names)
    short = {n.rpartition(".")[2] for n in listed}
    calls = {c for n in listed for c in _LIBRARIES.get(n.partition(".")[0], ())}
    lines = text.splitlines()
    return [f"{file}:{line}: {lines[line - 1].strip()[:80]}" for line in sorted(set(_lines(tree, short, calls)))][
        :_MOST
    ]


def _lines(tree: ast.Module, classes: set[str], libraries: set[str]) -> Iterator[int]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id == "isinstance" and len(node.args) == 2:
            if classes & {_last(n) for n in ast.walk(node.args[1])}:
                yield node.lineno
        elif isinstance(function, ast.Attribute) and _last(function.value) in libraries:
            yield node.lineno


def _last(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""

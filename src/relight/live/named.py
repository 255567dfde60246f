"""The text that ``--target`` would say, for a class or a function that a caller has in hand."""

from __future__ import annotations

import os
import sys
from types import FunctionType

from relight.core.errors import UsageError


def argument_of(target: object) -> str:
    """``package.module:Class`` or ``file.py:Class`` of a class or function: another process has to find it again.

    Args:
        target: A class, or a function that makes a model.

    Raises:
        UsageError: It is something else, or there is no way to import it.
    """
    if not isinstance(target, (type, FunctionType)):
        raise UsageError(
            f"target is an object of class {type(target).__qualname__}: it was made here, and relight makes its own",
            "Pass its class, a function that makes one, or the text that --target takes.",
        )
    name = target.__qualname__
    if "<locals>" in name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{name} is defined inside a function: relight builds models in another process, which cannot find it",
            "Define it at the top level of a file.",
        )
    file = getattr(sys.modules.get(target.__module__), "__file__", None)
    if target.__module__ == "__main__":
        if file is None or not os.path.isfile(file):
            raise UsageError(
                f"{name} is defined in an interactive session: relight builds models in another process",
                "Save it in a file, and pass it as file.py:" + name,
            )
        return f"{_shown(file)}:{name}"
    if file is not None and "." not in target.__module__ and not _is_on_the_path_of_a_new_process(file):
        return f"{_shown(file)}:{name}"
    return f"{target.__module__}:{name}"


def _is_on_the_path_of_a_new_process(file: str) -> bool:
    """Whether a module of its own is found without what this process did to ``sys.path``."""
    folder = os.path.realpath(os.path.dirname(file))
    if folder == os.path.realpath(os.curdir) or os.path.basename(folder) in ("site-packages", "dist-packages"):
        return True
    return not file.endswith(".py")


def _shown(file: str) -> str:
    """The path from the working directory where it lies below it: the text is printed in commands."""
    path = os.path.relpath(file)
    return file if path.startswith(os.pardir) else path

"""Runs a program as ``python`` would, and says more only where a checkpoint did not load: a stand-alone file.

`relight run` hands its process over to this file. The program finds its own arguments, its own ``__main__`` and its own
streams; its exit status, signals and what it prints are its own. Only when an exception leaves it, and is printed as it
always is, relight is imported and looks at what failed.
"""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType

_kept: list[ModuleType] = []  # the module that this file was: it lives on, unseen


def _run(arguments: list[str]) -> None:
    import builtins

    main = ModuleType("__main__")
    vars(main)["__builtins__"] = builtins
    if "__annotations__" not in vars(main) and sys.version_info < (3, 14):
        vars(main)["__annotations__"] = {}
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    first = arguments.pop(0) if arguments[0] == "-m" else None
    name = arguments[0]
    sys.argv[:] = arguments
    try:
        if first is not None:
            _run_module(name)
        else:
            _run_file(name, main)
    except SystemExit:
        raise
    except BaseException as error:
        _say_more(error)
        raise


def _run_module(name: str) -> None:
    import os
    import runpy

    _first_folder(os.getcwd())
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]  # what python -m does


def _run_file(name: str, main: ModuleType) -> None:
    import os
    from importlib.machinery import SourceFileLoader

    _first_folder(os.path.dirname(os.path.realpath(name)))
    name = os.path.abspath(name)  # as python has it since 3.9
    main.__file__ = name
    vars(main)["__cached__"] = None
    main.__loader__ = SourceFileLoader("__main__", name)
    with open(name, "rb") as file:
        code = compile(file.read(), name, "exec", dont_inherit=True)
    exec(code, vars(main))  # noqa: S102 (the program that the user asked to run)


def _first_folder(folder: str) -> None:
    """In place of this file's own, which python has put there, unless it was told not to."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def _say_more(error: BaseException) -> None:
    """Once the traceback is printed, by whatever prints it: the program may have a way of its own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    before = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        mine = value is error
        before(kind, value.with_traceback(trace) if mine else value, trace if mine else traceback)
        if mine and isinstance(value, Exception):
            _explain(value)

    sys.excepthook = hook


def _explain(error: Exception) -> None:
    import os

    try:
        sys.stdout.flush()
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        from relight.cli.run import explanation

        text = explanation(error)
    except Exception as defect:
        text = f"relight: what failed could not be looked at: {type(defect).__name__}: {defect}\n"
    if text:
        sys.stderr.write("\n" + text)
        sys.stderr.flush()


if __name__ == "__main__":
    _run(sys.argv[1:])

"""Running the command line in this process, and as a process of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from relight.cli import app

DEMO = Path(app.__file__).parent / "demo_files"


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


class CommandLine:
    """Commands as a terminal of 80 columns without colours shows them; the exit status comes with the text.

    Args:
        capsys: Pytest's.
    """

    def __init__(self, capsys) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        self._capsys.readouterr()
        try:
            app.main(arguments)
        except SystemExit as end:
            status = end.code
        finally:
            gc.enable()  # a command is a process that ends; this one has other tests to run
        out, err = self._capsys.readouterr()
        assert out.isascii(), [line for line in out.splitlines() if not line.isascii()]
        assert err.isascii(), err
        return Answer(status, out, err)

    def finds(self, *arguments: str) -> str:
        """The text of a command that exits with 1."""
        answer = self(*arguments)
        assert (answer.status, answer.err) == (1, "")
        return answer.out

    def says(self, *arguments: str) -> str:
        """The text of a command that exits with 0."""
        answer = self(*arguments)
        assert (answer.status, answer.err) == (0, "")
        return answer.out

    def refuses(self, *arguments: str) -> str:
        """The complaint of a command that could not run; it has no other text."""
        answer = self(*arguments)
        assert (answer.status, answer.out) == (2, "")
        return answer.err


def process(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """``relight ARGUMENTS`` as a process."""
    return subprocess.run(
        [sys.executable, "-c", "from relight.cli.app import main; main()", *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

"""What git knows of the target's source since a file was written."""

from __future__ import annotations

import os
import shlex
import subprocess
import time

from relight.facts.question import History

_SECONDS = 2.0


def history_since(source: str, checkpoint: str) -> History | None:
    """Commits that changed a source file after the date of a checkpoint; None where there is nothing to tell.

    Args:
        source: The source file.
        checkpoint: The file whose date counts.
    """
    if not os.path.isfile(source) or not os.path.isfile(checkpoint) or not _in_repository(source):
        return None
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(checkpoint)))
    folder, name = os.path.split(os.path.abspath(source))
    try:
        done = subprocess.run(
            # A monitor that the repository configures is a program that nobody asked to start.
            ["git", "-c", "core.fsmonitor=false", "-C", folder, "log", "--format=%h", f"--since={date}", "--", name],
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
    commits = len(done.stdout.split())
    if done.returncode != 0 or not commits:
        return None
    return History(source, commits, f'git log -p --since="{date}" -- {shlex.quote(source)}')


def _in_repository(source: str) -> bool:
    """Whether a folder above has a ``.git``: git itself takes longer to say no."""
    folder = os.path.dirname(os.path.abspath(source))
    while True:
        if os.path.exists(os.path.join(folder, ".git")):
            return True
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above

"""``relight run``."""

from __future__ import annotations

import os
import subprocess
import sys

import click

_RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_script.py")


@click.command(
    "run",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module, as for python -m.")
@click.argument("script", metavar="SCRIPT")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
def command(script: str, arguments: tuple[str, ...], module: bool) -> int:
    """Run SCRIPT as python does, and explain it if a checkpoint does not load.

    The program is left alone: arguments, streams and exit status are its own. Where it ends with an exception from
    load_from_checkpoint, Trainer.fit, torch.load or load_state_dict, the diagnosis follows the traceback: file, class
    and arguments are those of the call that failed.
    """
    if not module and not os.path.isfile(script):
        raise click.UsageError(f"cannot run {script}: there is no such file")
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # -X, -W and others: as given
    line = [sys.executable, *flags, _RUNNER, *(("-m",) if module else ()), script, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":  # elsewhere a process cannot become another
        os.execv(sys.executable, line)
    return subprocess.call(line)


def explanation(error: Exception) -> str:
    """What to print below the traceback of an exception; empty where it has nothing to do with a checkpoint."""
    from relight import api
    from relight.core.errors import RelightError
    from relight.report import text
    from relight.report.layout import Style

    try:
        report = api.explain_failure(error)
    except RelightError as defect:
        return f"relight: {defect}\n"
    if report is None:
        return ""
    if not report.failed:
        return f"relight: no cause is found in {report.origin}, or in what it is loaded into\n"
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return text.render(report, Style(colour=colour))

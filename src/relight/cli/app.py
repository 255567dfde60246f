"""The ``relight`` command: lazy subcommands, exit codes, and ``relight FILE``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import click

from relight.core.version import __version__

# What people need first; everything else is under "more".
_FIRST = ("check", "fix", "inspect", "explain")
_COMMANDS = {
    "check": "Will it load, into this model, here? If not: why, and what to do.",
    "fix": "Write a corrected copy, and prove that it is one.",
    "inspect": "What is inside a checkpoint, read without executing it.",
    "explain": "Explain a finding: its page, by name or code.",
    "run": "Run a program; if a checkpoint does not load in it, say why.",
    "convert": "Write it in another layout: safetensors, one file of a folder, ...",
    "map": "Which tensor of a checkpoint belongs where in a model, and by which rules.",
    "diff": "What differs between two checkpoints.",
    "verify": "Read every byte once and compare checksums; find NaN and Inf.",
    "seal": "Add a manifest to a copy of a file that has none.",
    "spec": "Describe a model as JSON, to check against without torch.",
    "rules": "List all rules.",
    "demo": "Diagnose the bundled broken checkpoints.",
}

EXIT_FINDINGS, EXIT_FAILED = 1, 2


class _Commands(click.Group):
    """Imports a command's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module  # noqa: TID251 (our own commands, by a fixed table)

        command: click.Command = import_module(f"relight.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # `relight FILE` is `relight check FILE`.
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            args = ["check", *args]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in _FIRST])
        with formatter.section("More"):
            formatter.write_dl([(n, text) for n, text in _COMMANDS.items() if n not in _FIRST])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Nothing in a checkpoint is executed or imported. Your own class is, in a child process.",
)
@click.version_option(__version__, "--version", prog_name="relight", message="%(prog)s %(version)s")
def relight() -> None:
    """The PyTorch checkpoint doctor.

    Will a checkpoint load, into this model, here, and if not, how do I make it?

    \b
      relight model.ckpt
      relight check model.ckpt --target models.py:MyModel
      relight inspect model.ckpt
    """  # noqa: D301 (click wants the character itself)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 nothing found, 1 findings, 2 could not run."""
    from relight.core.errors import RelightError

    # A short process whose objects live to its end: looking for garbage among a million of them finds none.
    gc.disable()
    try:
        status: Any = relight.main(
            args=None if arguments is None else list(arguments), prog_name="relight", standalone_mode=False
        )
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        status = EXIT_FAILED
    except click.exceptions.Abort:
        status = EXIT_FAILED
    except RelightError as error:
        click.echo(f"relight: {error}", err=True)
        status = EXIT_FAILED
    sys.exit(status if isinstance(status, int) else 0)

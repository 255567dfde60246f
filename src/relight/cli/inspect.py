"""``relight inspect``."""

from __future__ import annotations

import click

from relight import api
from relight.cli import options


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE")
@click.option("--all", "everything", is_flag=True, help="Every tensor, name and value; nothing folded.")
@options.output_options("text", "json")
def command(path: str, everything: bool, format_: str, output: str | None, color: str) -> int:
    """What is inside FILE: read without executing or importing anything from it.

    Exit status: 0, also for a damaged file (`relight check` judges); 2 if the path cannot be opened.
    """
    checkpoint = api.inspect(path)
    if format_ == "json":
        from relight.report import inspect_json

        options.emit(options.as_json(inspect_json.to_dict(checkpoint)), output)
        return 0
    from relight.report import inspect_text

    options.emit(inspect_text.render(checkpoint, options.style_for(color, output), everything=everything), output)
    return 0

"""``relight diff``."""

from __future__ import annotations

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FINDINGS


@click.command("diff", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--values", "with_values", is_flag=True, help="Also compare the values of tensors that both have.")
@click.option("--all", "everything", is_flag=True, help="Every row.")
@options.output_options("text", "json")
def command(
    left: str, right: str, with_values: bool, everything: bool, format_: str, output: str | None, color: str
) -> int:
    """What differs between two checkpoints: keys, shapes, dtypes, hyper_parameters, versions.

    Exit status: 0 nothing differs, 1 something does, 2 a file cannot be opened.
    """
    difference = api.diff(left, right, values=with_values)
    if format_ == "json":
        options.emit(options.as_json(difference.to_dict()), output)
    else:
        from relight.report import diff_text

        options.emit(diff_text.render(difference, options.style_for(color, output), everything=everything), output)
    return 0 if difference.equal else EXIT_FINDINGS

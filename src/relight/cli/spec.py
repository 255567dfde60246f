"""``relight spec``."""

from __future__ import annotations

import click

from relight import api
from relight.cli import options


@click.command("spec", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target", metavar="TARGET")
@click.option("--checkpoint", metavar="FILE", help="Build it with the hyper_parameters of this file.")
@options.target_options
@click.option("-o", "--output", metavar="FILE", help="Write to a file instead of the terminal.")
def command(
    target: str,
    checkpoint: str | None,
    init: tuple[str, ...],
    hparams_file: str | None,
    python: str | None,
    output: str | None,
) -> int:
    """Describe TARGET as JSON: what `relight check FILE --target spec.json` needs, without torch."""
    model = api.spec(
        target,
        checkpoint=checkpoint,
        init=options.parse_init(init),
        hparams_file=hparams_file,
        python=python,
        announce=options.announcer(False),
    )
    options.emit(options.as_json(model.to_dict()), output)
    return 0

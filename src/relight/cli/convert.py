"""``relight convert``."""

from __future__ import annotations

import os
from functools import partial

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FINDINGS


@click.command("convert", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="SOURCE")
@click.argument("output", metavar="FILE")
@click.option(
    "--to",
    type=click.Choice(["torch", "safetensors"]),
    help="Layout of FILE.  [default: safetensors where its name ends so, else torch]",
)
@click.option("--only", type=click.Choice(["weights"]), help="weights: leave out all but the state_dict.")
@click.option("--salvage", is_flag=True, help="Of a damaged SOURCE, write what is intact, and list what is not.")
@click.option("--target", metavar="TARGET", help="Make a Lightning checkpoint for this class of a plain state_dict.")
@click.option(
    "--init", metavar="NAME=VALUE", multiple=True, help="Argument of its constructor, as a hyper_parameter; repeatable."
)
@click.option("--python", metavar="PATH", help="Interpreter that builds the target.")
@click.option("--no-rest", is_flag=True, help="Do not write what safetensors cannot hold beside it.")
@click.option(
    "--prove",
    type=click.Choice(["read", "bytes"]),
    default="read",
    help="read: compare checksums where SOURCE records them, bytes elsewhere; bytes: compare all bytes.",
)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", help="Output format.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours.")
@click.option("-q", "--quiet", is_flag=True, help="Only the first line.")
def command(
    path: str,
    output: str,
    to: str | None,
    only: str | None,
    salvage: bool,
    target: str | None,
    init: tuple[str, ...],
    python: str | None,
    no_rest: bool,
    prove: str,
    format_: str,
    color: str,
    quiet: bool,
) -> int:
    """Write what SOURCE holds into FILE, in another layout, and prove it. SOURCE is only read.

    SOURCE is a checkpoint of torch of any age, a safetensors file, or a folder: shards with an index, or what
    torch.distributed.checkpoint, Lightning's strategies or DeepSpeed wrote. Nothing in it is executed, and neither torch
    nor any other framework is needed. Memory stays small, however large the file is.

    \b
      relight convert model.ckpt w.safetensors    the rest beside it: w.rest.json
      relight convert w.safetensors model.ckpt    and back, with the rest
      relight convert old.ckpt new.ckpt           as torch writes files today
      relight convert model.ckpt w.pt --only weights
      relight convert w.pt model.ckpt --target models.py:Net --init width=8

    Exit status: 0 written and proved; 1 the same, and --salvage left something out; 2 it could not be.
    """  # noqa: D301 (click wants the character itself)
    from relight.repair.material import size_of
    from relight.report import convert_text

    run = partial(api.convert, path, output, to=to, rest=not no_rest, only=only, prove=prove, salvage=salvage,
                  target=target, init=options.parse_init(init), python=python, announce=options.announcer(quiet))  # fmt: skip
    total = size_of(path) if os.path.exists(path) else 0
    with options.late_bar(total, "writing", quiet) as update:
        done = run(progress=update)
    if format_ == "json":
        options.emit(options.as_json(done.to_dict()), None)
    else:
        text = convert_text.text(done, options.style_for(color, None))
        options.emit(text.splitlines()[0] + "\n" if quiet else text, None)
    return EXIT_FINDINGS if salvage and done.left_out else 0

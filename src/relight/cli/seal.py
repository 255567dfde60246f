"""``relight seal``."""

from __future__ import annotations

import click

from relight import api
from relight.cli import options


@click.command("seal", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE")
@click.option(
    "--target",
    metavar="TARGET",
    required=True,
    help="The model that it belongs to: package.module:Class, file.py:Class, file.py, or a factory.",
)
@click.option(
    "--for",
    "intent",
    type=click.Choice(["load", "resume", "weights"]),
    default="load",
    help="How it is loaded: Class.load_from_checkpoint, Trainer.fit(ckpt_path=), or torch.load, then load_state_dict.",
)
@click.option(
    "--input",
    "inputs",
    metavar="FORM",
    multiple=True,
    help="Form of an argument of forward, as 8x3x32x32 or 4x16:int64:0..99: the model is asked, and its answer kept. "
    "Repeatable.  [default: that of example_input_array]",
)
@click.option("-o", "--output", metavar="FILE", help="The copy; nothing may be there.  [default: FILE.sealed]")
@options.target_options
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours.")
@click.option("-q", "--quiet", is_flag=True, help="Only the first line.")
def command(
    path: str,
    target: str,
    intent: str,
    inputs: tuple[str, ...],
    output: str | None,
    init: tuple[str, ...],
    hparams_file: str | None,
    python: str | None,
    color: str,
    quiet: bool,
) -> int:
    """Add a manifest to a copy of FILE, to be compared with later: what TARGET computes today.

    It describes the code of today, not that of the training run: seal before a refactoring. Tensors and everything else
    stay what they are. A program that trains writes a better one itself: relight.CheckpointManifest.
    """
    from relight.facts.question import Question
    from relight.report import fix_text

    receipt = api.seal(
        path,
        Question(path=path).fixed_path("sealed") if output is None else output,
        target,
        intent=intent,
        input=inputs,
        init=options.parse_init(init),
        hparams_file=hparams_file,
        python=python,
        announce=options.announcer(quiet),
    )
    text = fix_text.sealed(receipt, target, options.style_for(color, None))
    options.emit(text.splitlines()[0] + "\n" if quiet else text, None)
    return 0

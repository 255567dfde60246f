"""``relight check``."""

from __future__ import annotations

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FAILED, EXIT_FINDINGS


@click.command("check", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE")
@click.option(
    "--target",
    metavar="TARGET",
    help="What it is loaded into: package.module:Class, file.py:Class, file.py, a factory, or a spec.json.",
)
@click.option(
    "--for",
    "intent",
    type=click.Choice(["load", "resume", "weights"]),
    default="load",
    help="load: Class.load_from_checkpoint; resume: Trainer.fit(ckpt_path=); weights: torch.load, then load_state_dict.",
)
@click.option("--strict/--no-strict", default=None, help="strict= of the call.")
@click.option("--weights-only/--no-weights-only", default=None, help="weights_only= of the call.")
@click.option("--map-location", metavar="DEVICE", help="map_location= of the call.")
@options.target_options
@click.option(
    "--env",
    "pins",
    metavar="NAME==VERSION",
    multiple=True,
    help="Check for these versions instead of the installed ones; repeatable. What is not named is unknown.",
)
@click.option(
    "--prove/--no-prove",
    default=None,
    help="Ask the model, with the file's weights, what it answered when it was saved (needs a manifest). "
    "Unasked where the weights are small.",
)
@click.option("--ignore", "ignored", metavar="RULE", multiple=True, help="Leave out a rule's findings; repeatable.")
@options.output_options("text", "json", "markdown")
@click.option("-v", "--verbose", is_flag=True, help="Also say what was not asked, and why.")
@click.option("-q", "--quiet", is_flag=True, help="Only the first line.")
def command(
    path: str,
    target: str | None,
    intent: str,
    strict: bool | None,
    weights_only: bool | None,
    map_location: str | None,
    init: tuple[str, ...],
    hparams_file: str | None,
    python: str | None,
    pins: tuple[str, ...],
    prove: bool | None,
    ignored: tuple[str, ...],
    format_: str,
    output: str | None,
    color: str,
    verbose: bool,
    quiet: bool,
) -> int:
    """Will FILE load, into this model, here? If not: why, and what to do.

    Exit status: 0 nothing wrong was found, 1 it fails or loads silently wrong, 2 the check could not run.
    """
    report = api.check(
        path,
        target=target,
        environment=_environment(pins, python),
        intent=intent,
        strict=strict,
        weights_only=weights_only,
        map_location=map_location,
        init=options.parse_init(init),
        hparams_file=hparams_file,
        prove=prove,
        ignore=dict.fromkeys(ignored, "--ignore"),
        announce=options.announcer(quiet),
    )
    if format_ == "json":
        options.emit(options.as_json(report.to_dict()), output)
    elif format_ == "markdown":
        from relight.report import markdown

        options.emit(markdown.render(report), output)
    else:
        from relight.report import text

        style = options.style_for(color, output)
        rendered = text.render(report, style, verbose=verbose)
        options.emit(rendered.splitlines()[0] + "\n" if quiet else rendered, output)
    if report.unanswered:
        return EXIT_FAILED
    return EXIT_FINDINGS if report.failed else 0


def _environment(pins: tuple[str, ...], python: str | None) -> dict[str, str] | str | None:
    if not pins:
        return python
    if python is not None:
        raise click.UsageError("--env and --python both say where; give one of them")
    out: dict[str, str] = {}
    for pin in pins:
        name, equals, version = pin.partition("==")
        if not equals or not name or not version:
            raise click.BadParameter(f"{pin!r} is not NAME==VERSION", param_hint="--env")
        out[name.strip().lower().replace("_", "-")] = version.strip()
    return out

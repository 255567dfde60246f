"""``relight fix``."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FINDINGS
from relight.core.edits import Plan
from relight.core.errors import UsageError


@click.command("fix", context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option(
    "--to",
    metavar="NAME==VERSION",
    multiple=True,
    help="Write it for these versions instead of those here, as lightning==1.9.5; repeatable.",
)
@click.option(
    "--keep",
    metavar="PARTS",
    help="For a resume: restore only these of weights,optimizer,loops,callbacks,schedulers; the others begin anew.",
)
@click.option(
    "--set",
    "values",
    metavar="NAME=VALUE",
    multiple=True,
    help="For a resume: another value for an option of optimizers or schedulers, as optimizer.lr=0.001; repeatable.",
)
@click.option(
    "--rename",
    metavar="OLD=NEW",
    multiple=True,
    help="What a module or tensor of FILE is called in TARGET, where you know it, as left=branch_b; repeatable.",
)
@click.option("-o", "--output", metavar="FILE", help="The copy; nothing may be there.  [default: FILE.fixed]")
@click.option(
    "--in-place", is_flag=True, help="Append to FILE itself, where only names and values in its pickle change."
)
@click.option("--undo", is_flag=True, help="Take back the last repair of FILE in place, byte for byte.")
@click.option("--allow", metavar="NAME", multiple=True, help="Do what is not done unasked, by its name; repeatable.")
@click.option("--plan-only", is_flag=True, help="Say what would be done, and write nothing.")
@click.option("--plan", "plan_file", metavar="FILE", help="Do what a plan says that --plan-only --format json wrote.")
@click.option(
    "--prove",
    type=click.Choice(["load", "bytes", "read"]),
    default="load",
    help="load: really load the copy; bytes: also compare untouched tensors with FILE byte by byte; read: do not load it.",
)
@click.option("--strict/--no-strict", default=None, help="strict= of the call.")
@click.option("--weights-only/--no-weights-only", default=None, help="weights_only= of the call.")
@click.option("--map-location", metavar="DEVICE", help="map_location= of the call.")
@options.target_options
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", help="Output format.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours.")
@click.option("-q", "--quiet", is_flag=True, help="Only the first line.")
def command(
    path: str,
    target: str | None,
    intent: str,
    to: tuple[str, ...],
    keep: str | None,
    values: tuple[str, ...],
    rename: tuple[str, ...],
    output: str | None,
    in_place: bool,
    undo: bool,
    allow: tuple[str, ...],
    plan_only: bool,
    plan_file: str | None,
    prove: str,
    strict: bool | None,
    weights_only: bool | None,
    map_location: str | None,
    init: tuple[str, ...],
    hparams_file: str | None,
    python: str | None,
    format_: str,
    color: str,
    quiet: bool,
) -> int:
    """Write a corrected copy of FILE, and prove that it is one. FILE itself is only read, unless --in-place is given.

    The copy is read again, diagnosed again, compared with FILE tensor by tensor, and really loaded into the target. If
    any of that fails, there is no copy.

    Exit status: 0 written, proved, and nothing is left to find; 1 other findings are left, or there was nothing to do
    unasked; 2 it could not be written or proved.
    """
    from relight.core.errors import NothingToRepair
    from relight.facts.question import Question
    from relight.report import fix_text

    style = options.style_for(color, None)
    settings: dict[str, Any] = {
        "target": target,
        "environment": options.environment_of(to, python, "--to"),
        "intent": intent,
        "strict": strict,
        "weights_only": weights_only,
        "map_location": map_location,
        "init": options.parse_init(init),
        "hparams_file": hparams_file,
        "rename": options.parse_renames(rename),
        "announce": options.announcer(quiet),
    }
    if undo:
        click.echo(f"{path}: what it was, {api.undo(path):,} bytes")
        return 0
    if in_place and output is not None:
        raise click.UsageError("--in-place and -o exclude each other")
    wishes: dict[str, Any] = {
        "keep": [] if keep is None else [part.strip() for part in keep.split(",")],
        "options": options.parse_values(values, "--set"),
    }
    if plan_only:
        if plan_file is not None:
            raise click.UsageError("--plan-only makes a plan, and --plan carries one out")
        made = api.plan_of(path, allow=allow, **wishes, **settings)
        options.emit(options.as_json(made.to_dict()) if format_ == "json" else fix_text.plan(made, style), None)
        return 0 if made.edits else EXIT_FINDINGS
    if plan_file is not None and allow:
        raise click.UsageError("--plan says what is allowed already; leave --allow out")
    given = None if plan_file is None else _read(plan_file)
    if output is None and not in_place:
        output = Question(path=path).fixed_path()
    total = os.path.getsize(path) if os.path.isfile(path) else 0

    run = partial(api.fix, path, output, allow=allow, plan=given, prove=prove, in_place=in_place, **wishes, **settings)
    try:
        with options.late_bar(2 * total, "writing and reading again", quiet) as update:
            receipt = run(progress=update)
    except NothingToRepair as error:
        click.echo(f"relight: {error}", err=True)
        return EXIT_FINDINGS
    if format_ == "json":
        options.emit(options.as_json(receipt.to_dict()), None)
    else:
        text = fix_text.receipt(receipt, style)
        options.emit(text.splitlines()[0] + "\n" if quiet else text, None)
    return EXIT_FINDINGS if receipt.left else 0


def _read(path: str) -> Plan:
    try:
        with open(path, encoding="utf-8") as file:
            return Plan.from_dict(json.load(file))
    except OSError as error:
        raise UsageError(f"--plan {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"--plan {path}: {error}") from None

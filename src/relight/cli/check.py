"""``relight check``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FAILED, EXIT_FINDINGS
from relight.cli.settings import Settings, settings

if TYPE_CHECKING:
    from relight.report.printable import Report


@click.command("check", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE")
@click.option(
    "--target",
    "targets",
    metavar="TARGET",
    multiple=True,
    help="What it is loaded into: package.module:Class, file.py:Class, file.py, a factory, or a spec.json. "
    "file.py:* tries all models there, and so does giving it more than once: which fits best?",
)
@click.option(
    "--for",
    "intent",
    type=click.Choice(["load", "resume", "weights"]),
    help="load: Class.load_from_checkpoint (the default); resume: Trainer.fit(ckpt_path=); "
    "weights: torch.load, then load_state_dict.",
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
@click.option(
    "--select",
    metavar="RULE[,RULE]",
    multiple=True,
    help="Show the findings of these rules only: codes, prefixes (RL3) or names; repeatable.",
)
@click.option(
    "--ignore",
    "ignored",
    metavar="RULE=REASON",
    multiple=True,
    help="Accept the findings of a rule; the reason is kept in the report; repeatable.",
)
@click.option("--baseline", metavar="FILE", help="Accept the findings that this file lists; later ones are shown.")
@click.option("--write-baseline", is_flag=True, help="Write what is found now to the baseline.")
@click.option("--isolated", is_flag=True, help="Read no settings from pyproject.toml.")
@options.output_options("text", "json", "markdown")
@click.option("-v", "--verbose", is_flag=True, help="Also say what was not asked, and why.")
@click.option("-q", "--quiet", is_flag=True, help="Only the first line.")
@click.option("--explain", is_flag=True, help="Also say why, from the page of each rule, and what settles it.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 also where something is found.")
def command(
    path: str,
    targets: tuple[str, ...],
    intent: str | None,
    strict: bool | None,
    weights_only: bool | None,
    map_location: str | None,
    init: tuple[str, ...],
    hparams_file: str | None,
    python: str | None,
    pins: tuple[str, ...],
    prove: bool | None,
    select: tuple[str, ...],
    ignored: tuple[str, ...],
    baseline: str | None,
    write_baseline: bool,
    isolated: bool,
    format_: str,
    output: str | None,
    color: str,
    verbose: bool,
    quiet: bool,
    explain: bool,
    exit_zero: bool,
) -> int:
    """Will FILE load, into this model, here? If not: why, and what to do.

    What is not given here is taken from [tool.relight] of the nearest pyproject.toml. Findings that are ignored, not
    selected or in the baseline do not count for the exit status; the first line and the verdict stay what they are.

    Exit status: 0 nothing that counts was found, 1 it fails or loads silently wrong, 2 the check could not run.
    """
    project = Settings() if isolated else settings()
    targets = targets or project.target
    several = len(targets) > 1 or any(t.endswith(":*") for t in targets)
    if not pins and python is None:
        pins, python = project.env, project.python
    accepted = baseline or project.baseline
    if write_baseline and accepted is None:
        raise click.UsageError("--write-baseline writes to a file: name it with --baseline FILE")
    chosen = _rules(select)
    reasons = _reasons(ignored)
    # Who selects on the command line wants to see just that, whatever the project ignores.
    reasons |= {} if chosen else {s: r for s, r in project.ignore.items() if s not in reasons}
    if write_baseline and several:
        raise click.UsageError("--write-baseline is for one model: name it with --target")
    arguments: dict[str, Any] = {
        "environment": options.environment_of(pins, python, "--env"),
        "intent": intent or project.intent or "load",
        "strict": project.strict if strict is None else strict,
        "weights_only": project.weights_only if weights_only is None else weights_only,
        "map_location": map_location or project.map_location,
        "init": options.parse_init(init),
        "hparams_file": hparams_file or project.hparams_file,
        "select": chosen or project.select or None,
        "ignore": reasons,
        "baseline": None if write_baseline and not os.path.exists(accepted or "") else accepted,
        "explain": explain,
        "announce": options.announcer(quiet),
    }
    ranking = api.rank_targets(path, targets, **arguments) if several else None
    report = (
        api.check(path, target=targets[0] if targets else None, prove=prove, **arguments)
        if ranking is None
        else ranking.report
    )
    if write_baseline and accepted is not None:
        report = _accepted(report, accepted)
    answer = ranking or report
    if format_ == "json":
        options.emit(options.as_json(answer.to_dict()), output)
    elif format_ == "markdown":
        from relight.report import markdown

        options.emit(markdown.render(report) if ranking is None else markdown.render_ranking(ranking), output)
    else:
        style = options.style_for(color, output)
        rendered = answer.text(width=style.width, colour=style.colour, verbose=verbose)
        options.emit(rendered.splitlines()[0] + "\n" if quiet else rendered, output)
    if report.unanswered:
        return EXIT_FAILED
    return EXIT_FINDINGS if report.failed and not exit_zero else 0


def _rules(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _reasons(values: tuple[str, ...]) -> dict[str, str]:
    """``RL303=new head`` → ``{"RL303": "new head"}``; without a reason, the option itself is one."""
    out = {}
    for value in values:
        selectors, equals, reason = value.partition("=")
        if equals and not reason.strip():
            raise click.BadParameter(f"{value!r} has no reason behind the =", param_hint="--ignore")
        for selector in _rules((selectors,)):
            out[selector] = reason.strip() or "--ignore"
    return out


def _accepted(report: Report, baseline: str) -> Report:
    from relight.facts.describe import counted

    try:
        written = api.write_baseline(baseline, report)
    except OSError as error:
        raise click.FileError(baseline, hint=error.strerror or str(error)) from None
    count = len(written.suppressed) - len(report.suppressed)
    click.echo(f"relight: {counted(count, 'finding')} more accepted in {baseline}", err=True)
    return written

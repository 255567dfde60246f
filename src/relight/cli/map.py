"""``relight map``."""

from __future__ import annotations

from pathlib import Path

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FINDINGS


@click.command("map", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option(
    "--target",
    metavar="MODEL",
    required=True,
    help="The model, as for check; or another checkpoint, or a JSON list of [key, shape, dtype].",
)
@click.option(
    "--rules", "rule_file", type=click.Path(exists=True, dir_okay=False), help="Apply these rules; infer nothing."
)
@click.option("--save", metavar="FILE", help="Write the rules as TOML, to be edited and applied with --rules.")
@click.option("--prefix", default="", metavar="TEXT", help="Use only keys that start so, without it.")
@click.option(
    "--only",
    type=click.Choice(["ambiguous", "likely", "certain"]),
    default="ambiguous",
    help="Least confidence of a pair.",
)
@click.option("--drop", metavar="OP", multiple=True, help="Leave out pairs with this op, as resize; repeatable.")
@click.option("--all", "everything", is_flag=True, help="Every pair and every row.")
@options.target_options
@options.output_options("text", "json")
def command(
    checkpoint: str,
    target: str,
    rule_file: str | None,
    save: str | None,
    prefix: str,
    only: str,
    drop: tuple[str, ...],
    everything: bool,
    init: tuple[str, ...],
    hparams_file: str | None,
    python: str | None,
    format_: str,
    output: str | None,
    color: str,
) -> int:
    """Which tensor of CHECKPOINT belongs where in MODEL, how sure, and by which few rules.

    Names and sizes decide; where they cannot, values of those few tensors are read: two local files with the same
    weights tell equal layers apart.

    Nothing is changed. Exit status: 0 every tensor of the model has a source, 1 some have none, 2 could not run.
    """
    from relight.facts.mapper import rule_files
    from relight.facts.mapper.learning import learn

    text = None if rule_file is None else Path(rule_file).read_text(encoding="utf-8", errors="replace")
    found = api.map_keys(
        checkpoint,
        target,
        rules=text,
        prefix=prefix,
        only=only,
        drop=drop,
        init=options.parse_init(init),
        hparams_file=hparams_file,
        python=python,
        announce=options.announcer(format_ == "json"),
    )
    if text is not None:
        rules = rule_files.parse(text)
    else:
        keys = [*(s for p in found.pairs.values() for s in p.source), *found.leftover]
        rules = learn(found.pairs.values(), keys, found.initialised)
    if save is not None:
        options.emit(rule_files.dump(rules), save)
    if format_ == "json":
        from relight.report import map_json

        data = map_json.render(found, rules, checkpoint, target)
        options.emit(options.as_json(data), output)
    else:
        from relight.report import map_text

        style = options.style_for(color, output)
        options.emit(map_text.render(found, rules, checkpoint, target, style, everything=everything), output)
    return 0 if not found.initialised and not found.refused else EXIT_FINDINGS

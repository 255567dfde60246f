"""``relight inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from relight import api
from relight.cli import options

if TYPE_CHECKING:
    from relight.core.checkpoint import Checkpoint


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE")
@click.option("--all", "everything", is_flag=True, help="Every tensor, name and value; nothing folded.")
@click.option("--tree", "only_tree", is_flag=True, help="Only the state_dict's tree, in full.")
@click.option(
    "--keys", metavar="PATTERN", help="Only tensors whose key matches: shell wildcards, or a part of the key."
)
@click.option("--tensor", metavar="KEY", help="Statistics of one tensor: its values are read, and nothing else.")
@options.output_options("text", "json")
def command(
    path: str,
    everything: bool,
    only_tree: bool,
    keys: str | None,
    tensor: str | None,
    format_: str,
    output: str | None,
    color: str,
) -> int:
    """What is inside FILE: read without executing or importing anything from it.

    Exit status: 0, also for a damaged file (`relight check` judges); 2 if the path cannot be opened.
    """
    if tensor is not None:
        return _tensor(path, tensor, format_, output, color)
    checkpoint = api.inspect(path)
    if keys is not None:
        checkpoint = _matching(checkpoint, keys)
    if format_ == "json":
        from relight.report import inspect_json

        options.emit(options.as_json(inspect_json.to_dict(checkpoint)), output)
        return 0
    from relight.report import inspect_text

    style = options.style_for(color, output)
    if only_tree or keys is not None:
        options.emit(inspect_text.render_keys(checkpoint, style, listed=keys is not None), output)
    else:
        options.emit(inspect_text.render(checkpoint, style, everything=everything), output)
    return 0


def _matching(checkpoint: Checkpoint, pattern: str) -> Checkpoint:
    from dataclasses import replace
    from fnmatch import fnmatchcase

    wild = any(c in pattern for c in "*?[")
    return replace(
        checkpoint,
        tensors=tuple(t for t in checkpoint.tensors if (fnmatchcase(t.key, pattern) if wild else pattern in t.key)),
        extra_keys=(),
    )


def _tensor(path: str, key: str, format_: str, output: str | None, color: str) -> int:
    from relight.report import tensor_text

    found = api.tensor_statistics(path, key)
    if format_ == "json":
        options.emit(options.as_json(tensor_text.to_dict(*found)), output)
    else:
        options.emit(tensor_text.render(*found, options.style_for(color, output)), output)
    return 0

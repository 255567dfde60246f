"""``relight verify``."""

from __future__ import annotations

import os
import sys

import click

from relight import api
from relight.cli import options
from relight.cli.app import EXIT_FINDINGS

_BAR_FROM = 256 << 20  # bytes that take more than a second to read


@click.command("verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE")
@click.option("--finite", is_flag=True, help="Also look for NaN and Inf.")
@click.option("--digest", is_flag=True, help="Also compute sha256 of every record and of the file.")
@options.output_options("text", "json")
def command(path: str, finite: bool, digest: bool, format_: str, output: str | None, color: str) -> int:
    """Read every byte of FILE once and compare its checksums. torch.load does not.

    Exit status: 0 whole, 1 damaged (or NaN and Inf found with --finite), 2 the path cannot be opened.
    """
    total = os.path.getsize(path) if os.path.isfile(path) else 0
    if total >= _BAR_FROM and sys.stderr.isatty():
        with click.progressbar(length=total, label="verifying", file=sys.stderr) as bar:
            result = api.verify(path, finite=finite, digest=digest, progress=bar.update)
    else:
        result = api.verify(path, finite=finite, digest=digest)
    if format_ == "json":
        options.emit(options.as_json(result.to_dict()), output)
    else:
        from relight.report import verify_text

        options.emit(verify_text.render(result, options.style_for(color, output)), output)
    return 0 if result.ok else EXIT_FINDINGS

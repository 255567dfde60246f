"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from relight.report.layout import Style

_LATE = 0.5  # seconds after which it is worth to say how long it will take
F = TypeVar("F", bound=Callable[..., Any])


def output_options(*formats: str) -> Callable[[F], F]:
    """``--format``, ``-o`` and ``--color``."""

    def decorate(function: F) -> F:
        function = click.option(
            "--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours."
        )(function)
        function = click.option("-o", "--output", metavar="FILE", help="Write to a file instead of the terminal.")(
            function
        )
        return click.option(
            "--format", "format_", type=click.Choice(formats), default=formats[0], help="Output format."
        )(function)

    return decorate


def target_options(function: F) -> F:
    """What it takes to build the target."""
    function = click.option("--python", metavar="PATH", help="Interpreter that builds the target and loads the file.")(
        function
    )
    function = click.option("--hparams-file", metavar="FILE", help="hparams_file= of load_from_checkpoint.")(function)
    return click.option(
        "--init",
        metavar="NAME=VALUE",
        multiple=True,
        help="Argument that load_from_checkpoint passes to the constructor; repeatable.",
    )(function)


def environment_of(pins: Sequence[str], python: str | None, option: str) -> dict[str, str] | str | None:
    """``lightning==1.9.5`` → ``{"lightning": "1.9.5"}``; the interpreter where there are no pins."""
    if not pins:
        return python
    if python is not None:
        raise click.UsageError(f"{option} and --python both say where; give one of them")
    out: dict[str, str] = {}
    for pin in pins:
        name, equals, version = pin.partition("==")
        if not equals or not name or not version:
            raise click.BadParameter(f"{pin!r} is not NAME==VERSION", param_hint=option)
        out[name.strip().lower().replace("_", "-")] = version.strip()
    return out


def parse_init(values: Sequence[str]) -> dict[str, object]:
    """``width=8`` → ``{"width": 8}``; a value that is no Python literal is a string."""
    out = parse_values(values, "--init")
    for name in out:
        if not name.isidentifier():
            raise click.BadParameter(f"{name!r} is no name of an argument", param_hint="--init")
    return out


def parse_values(values: Sequence[str], option: str) -> dict[str, object]:
    """``optimizer.lr=0.1`` → ``{"optimizer.lr": 0.1}``; a value that is no Python literal is a string."""
    import ast

    out: dict[str, object] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param_hint=option)
        try:
            out[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            out[name] = text
    return out


def parse_renames(values: Sequence[str]) -> dict[str, str]:
    """``left=branch_b`` → ``{"left": "branch_b"}``."""
    out: dict[str, str] = {}
    for value in values:
        old, equals, new = value.partition("=")
        if not equals or not old or not new:
            raise click.BadParameter(f"{value!r} is not OLD=NEW", param_hint="--rename")
        if out.setdefault(old, new) != new:
            raise click.BadParameter(f"{old} gets two names: {out[old]} and {new}", param_hint="--rename")
    return out


def style_for(color: str, output: str | None) -> Style:
    """Colour and width of where the text goes."""
    import shutil

    from relight.report.layout import Style

    on_terminal = output is None and sys.stdout.isatty()
    colour = color == "always" or (color == "auto" and on_terminal and not os.environ.get("NO_COLOR"))
    width = shutil.get_terminal_size((80, 24)).columns if on_terminal or "COLUMNS" in os.environ else 80
    return Style(colour=colour, width=width)


def emit(text: str, output: str | None) -> None:
    """Write the result where it was asked for."""
    if output is None:
        _print(text)
        return
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise click.FileError(output, hint=error.strerror or str(error)) from None


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        # A terminal that cannot show a character shows its escape.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # `relight ... | head`: nobody reads on, which is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_json(data: Mapping[str, Any]) -> str:
    """ASCII JSON with a final newline: a line per key and per list element.

    ``json.dumps(indent=...)`` falls back to the encoder in Python, which would be half of the time of `inspect`.
    """
    import json

    encode = json.JSONEncoder(check_circular=False).encode  # json.dumps makes an encoder for each row
    lines = []
    for key, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            inner = ",\n    ".join(encode(v) for v in value)
            text = f"[\n    {inner}\n  ]"
        else:
            text = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def announcer(quiet: bool) -> Callable[[str], None] | None:
    """Prints the line that says why it takes a moment, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        return None
    return lambda line: click.echo(line, err=True)


@contextmanager
def late_bar(length: int, label: str, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A progress bar for what turns out to take more than a second; on a terminal only.

    Args:
        length: Bytes in all.
        label: What goes on.
        quiet: Whether there is to be none.

    Yields:
        What to call with the number of bytes done since the last call; None where nothing is shown.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    import time

    start = time.monotonic()
    done = 0
    bar: Any = None

    def update(count: int) -> None:
        nonlocal done, bar
        done += count
        if bar is not None:
            bar.update(count)
        elif time.monotonic() - start > _LATE:
            bar = click.progressbar(length=length, label=label, file=sys.stderr)
            bar.__enter__()
            bar.update(done)

    try:
        yield update
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)

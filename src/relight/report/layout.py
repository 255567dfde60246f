"""Laying out lines for a terminal: wrapping, columns, colour, and characters that a file must not smuggle in."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relight.core.finding import Evidence

_COLOURS = {"error": "1;31", "warning": "1;33", "note": "1;36", "good": "1;32", "dim": "2", "bold": "1"}


class Style:
    """Colours, or none.

    Args:
        colour: Whether to write ANSI sequences.
        width: Columns to lay out for.
    """

    def __init__(self, *, colour: bool = False, width: int = 80) -> None:
        self.colour = colour
        self.width = max(40, min(width, 100))

    def paint(self, text: str, kind: str) -> str:
        """Text in the colour of a kind; unchanged without colour."""
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self.colour else text


def clean(text: str) -> str:
    """Text with every control character written out: what a file names must not drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def in_line(text: str) -> str:
    """A name as a part of one line: a line break in it is written out, too."""
    return clean(text).replace("\n", "\\n")


def wrapped(text: str, style: Style, indent: str = "  ") -> list[str]:
    """A paragraph, wrapped and indented; words and paths are never broken."""
    return textwrap.wrap(
        clean(text),
        style.width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def verbatim(text: str, indent: str = "    ") -> list[str]:
    """Code and commands: never wrapped, so that they can be copied."""
    return [f"{indent}{clean(line)}" if line else "" for line in text.splitlines()]


def titled(left: str, right: str, style: Style, indent: str = "") -> list[str]:
    """Left part with the right part at the right margin of its first line; what does not fit goes on below.

    Args:
        left: What is said.
        right: A short tag.
        style: The width.
        indent: In front of the lines below the first.
    """
    room = style.width - len(right) - 2
    lines = textwrap.wrap(clean(left), max(room, 20), break_long_words=False, break_on_hyphens=False) or [""]
    first, rest = lines[0], clean(left)[len(lines[0]) :].lstrip()
    gap = style.width - len(first) - len(right)
    below = textwrap.wrap(
        rest,
        style.width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [f"{first}{' ' * max(gap, 2)}{right}", *below]


def columns(evidence: Sequence[Evidence], style: Style, indent: str = "  ") -> list[str]:
    """Evidence in up to three columns; the last one (where) at the right."""
    if not evidence:
        return []
    first = min(max(len(in_line(e.what)) for e in evidence), 44)
    out: list[str] = []
    for e in evidence:
        what, text, where = in_line(e.what), clean(e.text), clean(e.where or "")
        head = f"{indent}{what.ljust(first)}" if text or where else f"{indent}{what}"
        room = style.width - len(head) - 2 - (len(where) + 2 if where else 0)
        parts = textwrap.wrap(text, max(room, 24), break_long_words=False, break_on_hyphens=False) or [""]
        line = f"{head}  {parts[0]}".rstrip()
        if where:
            line = f"{line}{' ' * max(style.width - len(line) - len(where), 2)}{where}"
        out.append(line)
        out.extend(f"{indent}{' ' * first}  {p}" for p in parts[1:])
    return out


def joined(lines: Iterable[str]) -> str:
    """Lines as one text with a final newline."""
    return "\n".join(line.rstrip() for line in lines) + "\n"


def shortened(text: str, limit: int) -> str:
    """One line of at most ``limit`` characters; what is cut is marked, and a word is cut only where it is a long one."""
    flat = clean(" ".join(text.split()))
    if len(flat) <= limit:
        return flat
    kept = flat[: limit - 4]
    whole = kept if flat[limit - 4] == " " else kept.rpartition(" ")[0]
    if len(whole) < limit // 2:
        whole = kept
    return whole.rstrip(" ,;") + " ..."

"""Laying out lines for a terminal: wrapping, columns, colour, and characters that a file must not smuggle in."""

from __future__ import annotations

import re
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
    """A paragraph, wrapped and indented; words, paths, calls and shapes are never broken."""
    return _wrap(text, style.width, indent, indent, _CALL_OR_SHAPE)


def _wrap(text: str, width: int, first: str, rest: str, unbroken: re.Pattern[str] | None = None) -> list[str]:
    whole = (unbroken or _SHAPE).sub(lambda m: m.group().replace(" ", _KEPT), clean(text))
    lines = textwrap.wrap(
        whole, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_KEPT, " ") for line in lines]


_SHAPE = re.compile(r"\[[\d, ]{0,40}\]")
_CALL_OR_SHAPE = re.compile(r"[\w.]+\([^()\n]{0,160}\)|" + _SHAPE.pattern)  # somebody may copy a call
_KEPT = "\0"  # clean() leaves none


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
    room = max(style.width - len(right) - 2, 20)
    lead = len(clean(left).partition(" ")[0]) + 1  # the first word stays with the second
    text = " ".join(_elided(word, max(room - lead, 12)) for word in clean(left).split(" "))
    first = _wrap(text, room, "", "")[0] if text.strip() else ""
    below = _wrap(text[len(first) :].lstrip(), style.width, indent, indent)
    return [f"{first}{' ' * max(style.width - len(first) - len(right), 2)}{right}", *below]


def _elided(word: str, room: int) -> str:
    """A word that no line has room for, without its middle."""
    if len(word) <= room:
        return word
    half = (room - 5) // 2
    return f"{word[:half]}...{word[-half:]}"


def columns(evidence: Sequence[Evidence], style: Style, indent: str = "  ") -> list[str]:
    """Evidence in up to three columns; the last one (where) at the right.

    What is too long to leave room for the second column stands on a line of its own; ``a -> b`` on two.
    """
    if not evidence:
        return []
    widths = [len(in_line(e.what)) for e in evidence]
    first = min(max(widths), _LONGEST_NAME)
    out: list[str] = []
    for e in evidence:
        what, text, where = in_line(e.what), clean(e.text), clean(e.where or "")
        room = style.width - len(indent) - max(len(what), first) - 2 - (len(where) + 2 if where else 0)
        needed = max((len(line) for line in _wrap(text, max(room, 24), "", "")), default=0)
        if len(what) > first and needed > room:
            old, arrow, new = what.partition(" -> ")
            tail = f"{text}{'  ' if text and where else ''}{where}"
            if arrow and len(indent) + len(old) + 2 + len(tail) <= style.width:
                out.append(f"{indent}{old}{tail.rjust(style.width - len(indent) - len(old))}")
                tail = ""
            else:
                out.append(f"{indent}{old}")
            if arrow:
                out.append(f"{indent}  -> {new}")
            out += _wrap(tail, style.width, indent + "    ", indent + "    ") if tail else []
            continue
        head = f"{indent}{what.ljust(first)}" if text or where else f"{indent}{what}"
        parts = _wrap(text, max(style.width - len(head) - 2 - (len(where) + 2 if where else 0), 24), "", "") or [""]
        line = f"{head}  {parts[0]}".rstrip()
        if where:
            line = f"{line}{' ' * max(style.width - len(line) - len(where), 2)}{where}"
        out.append(line)
        out.extend(f"{indent}{' ' * first}  {p}" for p in parts[1:])
    return out


_LONGEST_NAME = 44  # the width of the first column at most


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

"""Arguments of pickle opcodes, as plain functions on bytes: what the machine in `pickle_vm` reads and refuses."""

from __future__ import annotations

import codecs

from relight.core.checkpoint import ProblemKind
from relight.reader.limits import Limits

_DIGITS = 4300  # what int() itself refuses since Python 3.11: converting is quadratic


class Broken(Exception):
    """The stream cannot be followed further.

    Args:
        kind: Which kind of problem.
        message: One line.
        what: Which limit, where one was reached.
    """

    def __init__(self, kind: ProblemKind, message: str, what: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.what = what


def malformed(message: str) -> Broken:
    """The stream makes no sense."""
    return Broken(ProblemKind.PICKLE_MALFORMED, message)


def truncated(message: str) -> Broken:
    """The stream ends too early."""
    return Broken(ProblemKind.TRUNCATED, message)


def reached(limits: Limits, name: str, message: str) -> Broken:
    """A limit was reached."""
    assert hasattr(limits, name)
    return Broken(ProblemKind.LIMIT, message, name)


def line_end(data: bytes, position: int, limit: int) -> int:
    """Where a newline-terminated argument ends (position of the newline)."""
    end = data.find(b"\n", position, position + limit + 1)
    if end < 0:
        if len(data) - position <= limit:
            raise truncated("the pickle ends in the middle of a line")
        raise Broken(ProblemKind.LIMIT, f"a text argument is longer than {limit:,} bytes", "argument_bytes")
    return end


def check_length(data: bytes, position: int, length: int, limits: Limits) -> None:
    """Whether an argument of a claimed length can be there: asked before anything is taken."""
    if length < 0:
        raise malformed(f"an argument claims {length} bytes")
    if position + length > len(data):
        raise truncated(f"an argument claims {length:,} bytes, {len(data) - position:,} are left")
    if length > limits.argument_bytes:
        raise reached(limits, "argument_bytes", f"an argument has {length:,} bytes")


def text(raw: bytes, encoding: str = "utf-8") -> str:
    """Text as the standard unpickler decodes it."""
    try:
        return str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise malformed("a text argument is no valid text") from None


def python2_string(raw: bytes) -> str | bytes:
    """A string of Python 2: text where it is UTF-8, else its bytes, as torch's ``encoding="utf-8"`` mostly gives."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def integer(raw: bytes, limits: Limits) -> int:
    """A little-endian integer of any length."""
    if len(raw) > limits.integer_bytes:
        raise reached(limits, "integer_bytes", f"an integer has {len(raw):,} bytes")
    return int.from_bytes(raw, "little", signed=True)


def decimal(line: bytes) -> int:
    """The argument of INT, LONG, PUT and GET, as ``int(line, 0)`` of the standard unpickler takes it."""
    digits = line.strip().removesuffix(b"L")
    if len(digits) > _DIGITS:
        raise Broken(ProblemKind.LIMIT, f"an integer has {len(digits):,} digits", "integer_bytes")
    try:
        return int(digits or b"0", 0) if digits[:2].lower() in (b"0x", b"0o", b"0b") else int(digits)
    except ValueError:
        raise malformed(f"no integer: {line[:40]!r}") from None


def decimal_float(line: bytes) -> float:
    """The argument of FLOAT."""
    try:
        return float(line)
    except ValueError:
        raise malformed(f"no number: {line[:40]!r}") from None


def quoted(line: bytes) -> bytes:
    """The argument of STRING: a Python literal in quotes, with Python 2 escapes."""
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise malformed("a STRING argument without quotes")
    try:
        raw, _ = codecs.escape_decode(line[1:-1])
    except ValueError:
        raise malformed("a STRING argument with a broken escape") from None
    assert isinstance(raw, bytes)
    return raw

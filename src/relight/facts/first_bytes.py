"""What an unpickler says to a file that is no pickle: it stops at the first byte that means nothing to it."""

from __future__ import annotations

from relight.core.checkpoint import Problem
from relight.core.finding import Prediction, Stage

# Opcodes of protocols 0 to 5. Source: CPython 3.13, Lib/pickle.py.
_OPCODES = frozenset(b"(.012FIJKLMNPQRSTUVXabcdeghijlopqrstu})]GBC" + bytes(range(0x80, 0x99)))
# Those that take nothing from the stack, and how many bytes follow: both unpicklers go on behind them.
# Source: the same; torch 2.13, _weights_only_unpickler.py, Unpickler.load.
_GOES_ON = {ord("("): 0, ord(")"): 0, ord("]"): 0, ord("}"): 0, ord("N"): 0, 0x88: 0, 0x89: 0, ord("K"): 1,
            ord("M"): 2, ord("J"): 4, ord("G"): 8}  # fmt: skip


def refused_byte(begins: bytes) -> int | None:
    """The byte at which unpickling stops, None where more than these first bytes decides."""
    at = 0
    while at < len(begins):
        byte = begins[at]
        if byte not in _OPCODES:
            return byte
        if byte not in _GOES_ON:
            return None
        at += 1 + _GOES_ON[byte]
    return None


def tar_without_storages(call: str, *, weights_only: bool | None) -> Prediction | None:
    """What loading raises for a tar archive that torch did not write: it takes any for its own oldest layout."""
    if weights_only is None:
        return None
    if weights_only:
        return Prediction(Stage.OPEN, call, "RuntimeError", "files saved in the legacy .tar format")
    return Prediction(Stage.OPEN, call, "KeyError", "filename 'storages' not found")


def begins(problem: Problem) -> bytes:
    """The first bytes of the file that a problem is about."""
    return bytes.fromhex(str(problem.details.get("begins", "")))


def not_a_pickle(head: bytes, call: str, *, weights_only: bool | None) -> Prediction | None:
    """What loading raises for a file of another format, by its first bytes.

    Args:
        head: The first bytes.
        call: What is called.
        weights_only: As the call uses it, None where that is not known.
    """
    byte = refused_byte(head)
    if byte is None:
        return None
    # Source: CPython, Modules/_pickle.c: load() and the words for a key that is not printable.
    shown = chr(byte) if 0x20 <= byte <= 0x7E and byte not in b"'\\" else f"\\x{byte:02x}"
    message = (
        "" if weights_only is None else "Weights only load failed" if weights_only else f"invalid load key, '{shown}'."
    )
    return Prediction(Stage.OPEN, call, "_pickle.UnpicklingError", message)

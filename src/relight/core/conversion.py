"""What a conversion wrote, as values: the receipt of ``relight convert``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONVERSION_SCHEMA = "relight/convert/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file that was written.

    Attributes:
        path: Where.
        what: What it holds: ``checkpoint``, ``weights``, ``rest`` (what is no weight, as JSON) or ``rest-tensors``.
        nbytes: Its size.
    """

    path: str
    what: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written, and what proves it.

    Attributes:
        source: Path of what was read, as given.
        layout: Its layout, as `relight.core.checkpoint.Layout` says it.
        nbytes: Its size.
        outputs: What was written, the file that was asked for first.
        changes: (what, how), a line each, for people.
        tensors: How many tensors of the state_dict were written.
        left_out: What was not written: (what, why).
        checks: (what was asked, whether it holds, in words), in order.
    """

    source: str
    layout: str
    nbytes: int
    outputs: tuple[Output, ...]
    changes: tuple[tuple[str, str], ...] = ()
    tensors: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    checks: tuple[tuple[str, bool, str], ...] = ()

    @property
    def proved(self) -> bool:
        """Whether everything that was asked holds."""
        return all(ok for _, ok, _ in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/convert/1``."""
        from relight.core.version import __version__

        return {
            "schema": CONVERSION_SCHEMA,
            "relight_version": __version__,
            "source": {"path": self.source, "layout": self.layout, "bytes": self.nbytes},
            "outputs": [{"path": o.path, "what": o.what, "bytes": o.nbytes} for o in self.outputs],
            "proved": self.proved,
            "changes": [{"what": what, "text": text} for what, text in self.changes],
            "tensors": self.tensors,
            "left_out": [{"what": what, "reason": reason} for what, reason in self.left_out],
            "checks": [{"check": what, "holds": ok, "text": text} for what, ok, text in self.checks],
        }

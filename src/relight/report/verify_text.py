"""``verify`` in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import ProblemKind
from relight.reader.verify import Verification, damages
from relight.report.inspect_text import size
from relight.report.layout import Style, in_line, joined, wrapped


def render(result: Verification, style: Style) -> str:
    """The whole text, with a final newline."""
    return joined(_lines(result, style))


def _lines(r: Verification, style: Style) -> Iterator[str]:
    if not r.ok and not r.records and not _damaged(r):
        yield style.paint(f"{in_line(r.origin)}: not a checkpoint, nothing to compare", "error")
        for problem in r.problems[:20]:
            yield from wrapped(problem.message, style)
        return
    unread = any(p.kind is ProblemKind.UNSUPPORTED and p.record for p in r.problems)
    whole = "whole, as far as it was read" if unread else "whole"
    said = whole if r.ok else "NOT whole" if _damaged(r) else "whole, but not all values are numbers"
    yield style.paint(f"{in_line(r.origin)}: {said}", "good" if r.ok else "error")
    rate = f", {size(int(r.read / r.seconds))}/s" if r.seconds > 0.5 else ""
    checks = (
        f"{r.checksums} of {r.records} records have a checksum, and it was compared"
        if r.checksums
        else "the file records no checksums: only its bounds could be checked"
    )
    if r.records:
        yield f"  {size(r.read)} read{rate}; {checks}"
    for problem in r.problems[:20]:
        bad = damages(problem)
        where = f"{problem.record}: " if problem.record else ""
        for line in wrapped(f"{'damaged' if bad else 'note'}: {where}{problem.message}", style):
            yield style.paint(line, "error" if bad else "warning")
    if len(r.problems) > 20:
        yield f"  ... {len(r.problems) - 20} more"
    for tensor in (r.non_finite or ())[:20]:
        parts = [f"{n:,} {what}" for n, what in ((tensor.nan, "NaN"), (tensor.inf, "Inf")) if n]
        yield f"  {in_line(tensor.key)}: {' and '.join(parts)} of {tensor.numel:,} values, first at {tensor.first:,}"
    if r.non_finite is not None and len(r.non_finite) > 20:
        yield f"  ... {len(r.non_finite) - 20} more tensors"
    for name, digest in (r.digests or {}).items():
        yield f"  sha256 {digest}  {in_line(name)}"


def _damaged(r: Verification) -> bool:
    return any(map(damages, r.problems))

"""``inspect --tensor``: one tensor, its description and its values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from relight.core.checkpoint import TensorEntry
from relight.facts.describe import counted, shape
from relight.reader.values import Statistics
from relight.report.layout import Style, in_line, joined


def to_dict(entry: TensorEntry, s: Statistics) -> dict[str, Any]:
    """JSON form, schema ``relight/tensor/1``."""
    return {
        "schema": "relight/tensor/1",
        "key": entry.key,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "stride": list(entry.stride),
        "device": entry.device,
        "storage": entry.storage_id,
        "statistics": {k: _plain(v) for k, v in asdict(s).items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def render(entry: TensorEntry, s: Statistics, style: Style) -> str:
    """The whole text, with a final newline."""
    lines = [
        style.paint(f"{in_line(entry.key)}: {shape(entry.shape)} {entry.dtype}", "bold"),
        f"  storage {entry.storage_id}, offset {entry.offset}, stride {shape(entry.stride)}, {entry.device}",
    ]
    what = "real and imaginary part" if entry.dtype.startswith("complex") else "value"
    if s.minimum is None:
        lines.append(f"  {counted(s.count, what)}, none of them a finite number" if s.count else "  no values")
    else:
        named = (("min", s.minimum), ("max", s.maximum), ("mean", s.mean), ("std", s.std))
        lines.append("  " + "   ".join(f"{n} {'beyond float64' if v is None else f'{v:.6g}'}" for n, v in named))
        lines.append(f"  {counted(s.count, what)}, {s.zeros:,} zero, {s.nan:,} NaN, {s.inf:,} Inf")
    if s.first:
        shown = "  ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in s.first)
        lines.append(f"  first: {shown}{' ...' if s.count > len(s.first) else ''}")
    return joined(lines)

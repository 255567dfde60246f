"""The probe of a manifest: the question to the model of today, and how its answer differs from the one of then."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relight.core.checkpoint import Checkpoint
from relight.core.manifest import Manifest, listed, number
from relight.core.target import Replay
from relight.reader.fingerprint import span_of

_GENERATOR = "hash20/1"
# How far two answers may lie apart, in units of the outputs' spread, before they count as different: sums of float32 in
# another order stay below a ten-thousandth even in deep networks; the shorter types have 11 and 8 bits.
_TOLERANCE = {"float64": 1e-3, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}


def question(manifest: Manifest, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What the process that builds the model needs to ask it; None where there is no probe or no values to load.

    Args:
        manifest: Of the file.
        checkpoint: The file.
    """
    wanted = asked(manifest)
    found = None if wanted is None else places(checkpoint)
    return None if found is None or wanted is None else {**found, **wanted}


def asked(manifest: Manifest) -> dict[str, Any] | None:
    """Which module was asked, and with which form of an input; None where there is none that can be made again.

    Args:
        manifest: Of the file.
    """
    probe = manifest.part("probe")
    form, module = probe.get("input"), probe.get("module")
    if probe.get("generator") != _GENERATOR:
        return None
    if not isinstance(form, Mapping) or not isinstance(module, str) or not _is_form(form):
        return None
    return {"module": module, "input": dict(form)}


def places(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Where in the file the values of its tensors are; None where they are not all plainly in it.

    Args:
        checkpoint: The file.
    """
    if not checkpoint.tensors or not checkpoint.little_endian or not os.path.isfile(checkpoint.origin):
        return None
    tensors: list[tuple[str, str, list[int], int, int]] = []
    for t in checkpoint.tensors:
        span = span_of(t, checkpoint.storages.get(t.storage_id or ""))
        if span is None:
            return None
        tensors.append((t.key, t.dtype, list(t.shape), span.start, span.length))
    return {"file": os.path.abspath(checkpoint.origin), "tensors": tensors}


def _is_form(form: Mapping[str, Any]) -> bool:
    """Whether an input is small: what a file asks for is made only as far as the callback would have asked."""
    left = 4_000_000
    stack: list[Any] = [form.get("args"), form.get("kwargs")]
    while stack:
        part = stack.pop()
        if isinstance(part, Mapping):
            shape = part.get("shape")
            if "tensor" in part:
                if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
                    return False
                left -= math.prod(shape)
            else:
                stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
        left -= 1
        if left < 0:
            return False
    return isinstance(form.get("args"), list) and isinstance(form.get("kwargs"), Mapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the answer of today compares with the one that was recorded.

    Attributes:
        same: Whether it is the same within the tolerance; None where that could not be told.
        reason: Why not.
        predictions: How many rows have another largest value, and of how many.
        largest: The largest difference that was seen.
        form: The input in words: ``64 x 2``.
        shapes: Shapes of the outputs then and now, in words, where they are not the same.
    """

    same: bool | None
    reason: str = ""
    predictions: tuple[int, int] | None = None
    largest: float = 0.0
    form: str = ""
    shapes: tuple[str, str] | None = None

    @property
    def text(self) -> str:
        """One sentence on a difference."""
        if self.shapes is not None:
            return f"the outputs had the shape {self.shapes[0]} and have {self.shapes[1]} now"
        changed = ""
        if self.predictions is not None and self.predictions[0]:
            changed = f"{self.predictions[0]} of {self.predictions[1]} predictions change, "
        return f"{changed}outputs differ by up to {self.largest:.3g}"


def compare(manifest: Manifest, replay: Replay | None) -> Outcome | None:
    """The outcome; None where nothing was asked."""
    if replay is None:
        return None
    probe = manifest.part("probe")
    form = form_text(probe.get("input"))
    if replay.answer is None:
        return Outcome(same=None, reason=replay.reason or "it gave no answer", form=form)
    if not replay.steady:
        return Outcome(same=None, reason="it answers differently every time", form=form)
    kinds = {str(probe.get("dtype")), str(replay.answer.get("dtype"))}
    tolerance = max(_TOLERANCE.get(kind, 5e-2) for kind in kinds)
    before, now = (
        [o for o in listed(side.get("outputs")) if isinstance(o, Mapping)] for side in (probe, replay.answer)
    )
    shapes = [[o.get("shape") for o in side] for side in (before, now)]
    if shapes[0] != shapes[1]:
        was, is_now = (", ".join(" x ".join(map(str, listed(s))) or "()" for s in side) or "none" for side in shapes)
        return Outcome(same=False, largest=math.inf, form=form, shapes=(was, is_now))
    same, largest = True, 0.0
    changed = rows = 0
    for one, two in zip(before, now, strict=True):
        spread = _spread(one)
        for a, b in _pairs(one, two):
            gap = abs(a - b) if math.isfinite(a) and math.isfinite(b) else (0.0 if str(a) == str(b) else math.inf)
            largest = max(largest, gap)
            same = same and gap <= tolerance * spread
        if one.get("finite") != two.get("finite"):
            same = False
        leads = [number(v) for v in listed(one.get("lead"))]
        for i, (a, b) in enumerate(zip(listed(one.get("largest")), listed(two.get("largest")), strict=False)):
            rows += 1
            if a != b:
                changed += 1
                # Where two rows are nearly equal, rounding decides.
                same = same and not (i < len(leads) and leads[i] > 2 * tolerance * spread)
    predictions = (changed, rows) if rows else None
    return Outcome(same=same, predictions=predictions, largest=largest, form=form)


def _spread(output: Mapping[str, Any]) -> float:
    """What a difference is measured by: the standard deviation of an output, or its size where that is less than it."""
    numbers = [number(v) for v in listed(output.get("statistics"))]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        return 1e-6
    mean, std, low, high = numbers
    return max(std, 1e-3 * max(abs(mean), abs(low), abs(high)), 1e-6)


def _pairs(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for name in ("statistics", "sample"):
        out += [(number(a), number(b)) for a, b in zip(listed(one.get(name)), listed(two.get(name)), strict=False)]
    return out


def form_text(form: object) -> str:
    """The shapes of an input: ``64 x 2``."""
    shapes: list[str] = []
    stack = [form]
    while stack and len(shapes) < 3:
        part = stack.pop(0)
        if isinstance(part, Mapping):
            if "tensor" in part:
                shapes.append(" x ".join(map(str, listed(part.get("shape")))) or "a number")
            else:
                stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
    return ", ".join(shapes)

"""Do to real tensors what a mapping says; torch is used, never imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relight.core.errors import UsageError
from relight.facts.mapper.pairs import KeyMap


def convert(found: KeyMap, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state_dict under the model's keys, in the model's shapes.

    Args:
        found: The mapping.
        state_dict: Tensors by key of the checkpoint.

    Returns:
        Tensors by key of the model, as far as they have a source. What is put together, cut or turned is a new
        tensor; what is only renamed is the tensor itself. What nothing needs is left out.

    Raises:
        UsageError: A key of the mapping is not in the state_dict, or a pair would have to be resized, which invents
            values.
    """
    out: dict[str, Any] = {}
    for key, pair in found.pairs.items():
        missing = [s for s in pair.source if s not in state_dict]
        if missing:
            inside = next((k for k, v in state_dict.items() if isinstance(v, Mapping) and missing[0] in v), None)
            hint = "It is for another file." if inside is None else f"Its tensors are one step deeper: [{inside!r}]."
            raise UsageError(f"the state_dict has no {missing[0]}, which the mapping takes", hint)
        tensors = [state_dict[s] for s in pair.source]
        steps = pair.op.split("+")
        shape = found.shapes.get(key, ())
        for step, then in zip(steps, [*steps[1:], ""], strict=True):
            # What is turned afterwards has to be reshaped to the turned shape.
            tensors = [_apply(step, tensors, shape[::-1] if then == "transpose" else shape, key)]
        out[key] = tensors[0]
    return out


def _apply(step: str, tensors: Sequence[Any], shape: tuple[int, ...], key: str) -> Any:
    op, *how = step.split(":")
    first = tensors[0]
    if op == "copy":
        return first
    if op == "transpose":
        return first.permute(*reversed(range(first.dim()))).contiguous()
    if op == "permute":
        return first.permute(*map(int, how[0].split(","))).contiguous()
    if op == "reshape":
        return first.reshape(shape)
    if op == "concat":
        return _joined(tensors, int(how[0]))
    if op == "split":
        part, parts = map(int, how[1].split("/"))
        size = first.shape[int(how[0])] // parts
        return first.narrow(int(how[0]), part * size, size).clone()
    if op == "slice":
        start, end = int(how[1]), int(how[2])
        return first.narrow(int(how[0]), start, end - start).clone()
    if op == "stack":
        return _joined([t.unsqueeze(int(how[0])) for t in tensors], int(how[0]))
    if op == "stack2":
        half = len(tensors) // 2
        stacked = [_joined([t.unsqueeze(0) for t in part], 0) for part in (tensors[:half], tensors[half:])]
        return _joined(stacked, int(how[0]))
    raise UsageError(f"{key}: {op} would invent values; leave such pairs out (drop={op!r})")


def _joined(tensors: Sequence[Any], dim: int) -> Any:
    """``torch.cat``, by methods of the tensors alone."""
    sizes = list(tensors[0].shape)
    sizes[dim] = sum(t.shape[dim] for t in tensors)
    out = tensors[0].new_empty(sizes)
    start = 0
    for t in tensors:
        out.narrow(dim, start, t.shape[dim]).copy_(t)
        start += t.shape[dim]
    return out

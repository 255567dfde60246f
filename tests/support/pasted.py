"""What a person does with a report: copy the code out of it and run it."""

from __future__ import annotations

import ast
import re
import tarfile
from pathlib import Path
from typing import Any

from relight.core.finding import Fix

_PROGRAM = re.compile(r"(import [\w., ]+\n|model = |torch\.load\(|\w+\.load_from_checkpoint\()")
_CALL = re.compile(r"\w+\.load_from_checkpoint\(.*?\)(?=$|\s|\.)")


def can_be_pasted(fix: Fix) -> bool:
    """Whether it is a program of its own, and no part of the user's source."""
    return fix.code is not None and _PROGRAM.match(fix.code) is not None


def call_in(text: str | None) -> str | None:
    """The load_from_checkpoint call that a note names."""
    match = _CALL.search(text or "")
    return match.group() if match else None


def paste(code: str, namespace: dict[str, Any]) -> Any:
    """Run code; the value of its last line where that is an expression, as an interactive Python shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "pasted", "exec"), namespace)
    return None if last is None else eval(compile(ast.Expression(last.value), "pasted", "eval"), namespace)  # noqa: S307 (what relight itself printed)


def state_of(path: Path, under: str = "state_dict") -> dict[str, Any]:
    """The tensors of a file, by key."""
    import torch

    root = torch.load(path, map_location="cpu", weights_only=False)
    state = root.get(under, root)
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}


def fill(path: Path) -> bool:
    """Give every tensor of a recipe's file values of its own, so that mixing them up shows; False where it cannot be."""
    import torch

    if tarfile.is_tarfile(path):
        return False  # saved again it would have today's layout, and nothing to repair
    try:
        root = torch.load(path, weights_only=False)
    except Exception:
        return False
    generator = torch.Generator().manual_seed(1)
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if value.untyped_storage().data_ptr() not in seen and value.numel():
                seen.add(value.untyped_storage().data_ptr())
                value.copy_(torch.randn(value.shape, generator=generator) * 100)
        elif isinstance(value, dict):
            for v in value.values():
                visit(v)

    visit(root)
    torch.save(root, path)
    return True


def rows_of(state: dict[str, Any]) -> set[bytes]:
    """The slices along the first dimension of all tensors: what concatenating, splitting and renaming leave as it is."""
    out: set[bytes] = set()
    for tensor in state.values():
        for row in tensor if tensor.dim() else [tensor]:
            out.add(row.contiguous().numpy().tobytes())
    return out

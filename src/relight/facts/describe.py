"""How findings speak of modules, keys and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from relight.facts.patterns import folded

if TYPE_CHECKING:
    from relight.core.finding import Evidence
    from relight.core.target import ModelSpec
    from relight.facts.keys import Mismatch


def shape(sizes: Sequence[int]) -> str:
    """``[16, 8]``; ``[]`` for a scalar."""
    return f"[{', '.join(map(str, sizes))}]"


def tensors(count: int) -> str:
    """``1 tensor``, ``2 tensors``."""
    return counted(count, "tensor")


def counted(count: int, word: str, many: str | None = None) -> str:
    """``1 value``, ``2 values``; ``many`` where the plural is not made with an s."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def some(names: Iterable[str], limit: int = 4) -> str:
    """``a, b, c, d and 3 more``."""
    listed = list(names)
    if len(listed) <= limit:
        return ", ".join(listed)
    return f"{', '.join(listed[:limit])} and {len(listed) - limit} more"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``: all of them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def module_text(spec: ModelSpec, path: str) -> str:
    """``nn.Linear(in_features=1, out_features=5)``; an empty string for a path that is no module."""
    module = spec.module(path)
    if module is None:
        return ""
    name = module.class_path.rpartition(".")[2]
    if module.class_path.startswith("torch.nn."):
        name = f"nn.{name}"
    extra = module.extra_repr.replace(", bias=True", "")
    if "\n" in extra or len(extra) > 60:
        extra = "..."
    return f"{name}({extra})" if extra else name


def where(spec: ModelSpec, path: str) -> str | None:
    """``load.py:9``: where the attribute that holds a module or parameter is assigned."""
    while path:
        module = spec.module(path)
        if module is not None and module.line is not None:
            return module.line
        path = path.rpartition(".")[0]
    return None


def shapes(spec: ModelSpec, mismatched: Sequence[Mismatch]) -> tuple[Evidence, ...]:
    """One line of evidence per key, the shapes of both sides below each other."""
    from relight.core.finding import Evidence

    width = max((len(shape(m.saved)) for m in mismatched), default=0)
    return tuple(
        Evidence(
            m.key,
            f"checkpoint {shape(m.saved).ljust(width)}  model {shape(m.wanted)}",
            where(spec, m.key.rpartition(".")[0]),
        )
        for m in mismatched
    )


def others_fit(count: int) -> str:
    """``The other 8 tensors fit.``; nothing where there are no others."""
    if not count:
        return ""
    return "The other tensor fits. " if count == 1 else f"The other {count:,} tensors fit. "


def groups(
    spec: ModelSpec, by_module: dict[str, tuple[str, ...]], *, in_model: bool, limit: int = 5
) -> tuple[Evidence, ...]:
    """One line of evidence per group of keys, the largest first, and how many more there are."""
    from relight.core.finding import Evidence

    ordered = sorted(folded(by_module).items(), key=lambda g: -sum(len(by_module[path]) for path in g[1]))
    lines = []
    for pattern, paths in ordered[:limit]:
        first = paths[0]
        count = sum(len(by_module[path]) for path in paths)
        what = module_text(spec, first) if in_model else ""
        alone = all(by_module[path] == (path,) for path in paths)
        amount = "a tensor of its own" if alone and len(paths) == 1 else tensors(count)
        lines.append(
            Evidence(pattern, f"{what}, {amount}" if what else amount, where(spec, first) if in_model else None)
        )
    if len(ordered) > limit:
        rest = sum(len(by_module[path]) for _, paths in ordered[limit:] for path in paths)
        lines.append(Evidence("...", f"{len(ordered) - limit} more, {tensors(rest)}"))
    return tuple(lines)


def equal_blocks(container: str, fewer: int, more: int, *, in_model: bool) -> str:
    """Why nobody can say which of several equal blocks one side has more."""
    few, many = ("checkpoint", "model") if in_model else ("model", "checkpoint")
    return (
        f"{container or 'The model'} has {counted(fewer, 'block')} in the {few} and {more:,} in the {many}, all equal: "
        "if the others are not the last ones, what fits now fits at the wrong place. No key can show it."
    )


def what_is_left(whole: int, lost: int) -> str:
    """What a damaged file still tells: tensors with their values, and tensors without."""
    values = "all of their values" if not lost else f"the values of {whole}" if whole else "none of their values"
    rest = " relight convert --salvage writes what is whole." if whole else ""
    return f"Names and shapes of {tensors(whole + lost)} can still be read, and {values}.{rest}"

"""Many keys in few words: ``layers.{0..11}.attn.qkv.{weight,bias}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_NUMBER = re.compile(r"(?<!\d)(?:0|[1-9]\d*)(?!\d)")  # without leading zeros, which a pattern would lose
_LAST_STEP = re.compile(r"(?<=(?<!\.)\.)[^.]*$")  # dots inside braces come in pairs
_FEW = 6  # names in one pair of braces, beyond which they are listed apart


def folded(keys: Iterable[str]) -> dict[str, list[str]]:
    """Patterns that stand for exactly the given keys, and the keys that each stands for.

    Numbers that differ are folded first, then the last steps of what is otherwise equal. A pattern is written only
    where every combination that it stands for is among the keys.

    Args:
        keys: Keys of a state_dict; their order decides that of the patterns.
    """
    numbers = {pattern[0]: [row[0] for row in rows] for pattern, rows in _numbers([(key,) for key in keys]).items()}
    return _leaves(numbers)


def folded_pairs(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The same for pairs of keys or prefixes, whose numbers move together.

    ``(blocks.0.attn, layers.1.attention) ... (blocks.5.attn, layers.6.attention)`` is
    ``(blocks.{0..5}.attn, layers.{1..6}.attention)``.

    Args:
        pairs: (name in the checkpoint, name in the model).
    """
    found = _numbers(list(dict.fromkeys(pairs)))
    return {(pattern[0], pattern[1]): [(a, b) for a, b in rows] for pattern, rows in found.items()}


def ends_cut(old: str, new: str) -> tuple[str, str]:
    """Two keys without the last steps that they share; neither is ever empty."""
    a, b = old.split("."), new.split(".")
    common = 0
    while common < min(len(a), len(b)) - 1 and a[-1 - common] == b[-1 - common]:
        common += 1
    return ".".join(a[: len(a) - common]), ".".join(b[: len(b) - common])


Row = tuple[str, ...]
Values = tuple[int, ...]


def _numbers(rows: Sequence[Row]) -> dict[Row, list[Row]]:
    """Rows of texts that differ in numbers only, as one."""
    groups: dict[Row, dict[Values, Row]] = {}
    for row in rows:
        shape = tuple(_NUMBER.sub("#", text) for text in row)
        groups.setdefault(shape, {})[tuple(int(n) for text in row for n in _NUMBER.findall(text))] = row
    out: dict[Row, list[Row]] = {}
    for shape, by_values in groups.items():
        for columns, values in _products(list(by_values)):
            spans = iter([_span(column) for column in columns])
            out[tuple(_filled(text, spans) for text in shape)] = [by_values[v] for v in values]
    return out


def _filled(text: str, spans: Iterator[str]) -> str:
    parts = text.split("#")
    return parts[0] + "".join(next(spans) + part for part in parts[1:])


def _products(values: Sequence[Values]) -> list[tuple[tuple[Values, ...], Sequence[Values]]]:
    """The rows as few blocks: the values of each column, and the rows that the block stands for.

    Within a block columns vary together or not at all, or each with each.
    """
    if len(values) == 1:
        return [(tuple((v,) for v in values[0]), values)]
    columns = list(zip(*values, strict=True))
    varying = [i for i, c in enumerate(columns) if len(set(c)) > 1]
    # Columns that move together (equal, or by a constant) count once.
    leaders: list[int] = []
    for i in varying:
        if not any(len({a - b for a, b in zip(columns[i], columns[j], strict=True)}) == 1 for j in leaders):
            leaders.append(i)
    distinct = {tuple(row[i] for i in leaders) for row in values}
    full = 1
    for i in leaders:
        full *= len(set(columns[i]))
    if len(distinct) == len(values) == full:
        return [(tuple(tuple(dict.fromkeys(c)) for c in columns), values)]
    # No full grid: one block for each value of the first column that varies.
    parts: dict[int, list[Values]] = {}
    for row in values:
        parts.setdefault(row[leaders[0]], []).append(row)
    return [block for part in parts.values() for block in _products(part)]


def _span(column: Sequence[int]) -> str:
    values = sorted(column)
    if len(values) == 1:
        return str(values[0])
    if values == list(range(values[0], values[-1] + 1)):
        return f"{{{values[0]}..{values[-1]}}}" if len(values) > 2 else f"{{{values[0]},{values[-1]}}}"
    if len(values) > _FEW:
        step = values[1] - values[0]
        if values == list(range(values[0], values[-1] + 1, step)):
            return f"{{{values[0]},{values[1]}..{values[-1]}}}"
    return f"{{{','.join(map(str, values))}}}"


def _leaves(patterns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Patterns that differ in their last step only, as one."""
    groups: dict[str, list[str]] = {}
    for pattern in patterns:
        end = _LAST_STEP.search(pattern)
        groups.setdefault(pattern[: end.start()] if end else "", []).append(pattern)
    out: dict[str, list[str]] = {}
    for owner, members in groups.items():
        leaves = [pattern.removeprefix(owner) for pattern in members]
        alike = len({len(patterns[pattern]) for pattern in members}) == 1
        if owner and 1 < len(leaves) <= _FEW and alike and not any("{" in leaf or "}" in leaf for leaf in leaves):
            out[f"{owner}{{{','.join(leaves)}}}"] = [key for pattern in members for key in patterns[pattern]]
        else:
            out.update({pattern: patterns[pattern] for pattern in members})
    return out

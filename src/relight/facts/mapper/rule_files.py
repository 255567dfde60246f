"""Rules as TOML: written to be edited, read to be applied again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from relight.core.errors import UsageError
from relight.facts.mapper.rules import Rule, unsound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEAD = """# Rules that rewrite the keys of a checkpoint, one after the other: each sees what those before it made of a key.
# {a}, {b} ... stand for numbers, {a-1} for one less, {a:1,3} for one of these (in the target: for the first, for the
# second); {*} for every number there is. A * in front stands for any front, what follows is kept; with * on both sides
# the text is replaced wherever it stands; with $ behind nothing may follow. Several targets take a tensor apart,
# op = "left out" takes a key away.
"""


def dump(rules: Sequence[Rule]) -> str:
    """The text of a file that says these rules."""
    out = [_HEAD]
    for rule in rules:
        out.append("[[rule]]")
        out.append(f"source = {json.dumps(list(rule.source), ensure_ascii=False)}")
        target = rule.target[0] if len(rule.target) == 1 else list(rule.target)
        out.append(f"target = {json.dumps(target, ensure_ascii=False)}")
        if rule.op != "copy":
            out.append(f"op = {json.dumps(rule.op)}")
        out.append("")
    return "\n".join(out)


def parse(text: str) -> list[Rule]:
    """The rules of such a file.

    Raises:
        UsageError: It is no TOML, or says no rules.
    """
    try:
        found = tomllib.loads(text).get("rule")
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the rules are no TOML: {error}") from None
    if not isinstance(found, list) or not found:
        raise UsageError(
            "the file has no [[rule]]", "Write one with: relight map CHECKPOINT --target MODEL --save FILE"
        )
    out = []
    for n, entry in enumerate(found, 1):
        source, target, op = entry.get("source"), entry.get("target"), entry.get("op", "copy")
        mine, theirs = _texts(source), _texts(target)
        if mine is None or theirs is None or not isinstance(op, str) or set(entry) - {"source", "target", "op"}:
            raise UsageError(f"rule {n} is not of the form source, target and perhaps op")
        rule = Rule(mine, theirs, op)
        reason = unsound(rule)
        if reason is not None:
            raise UsageError(f"rule {n} ({rule}): {reason}")
        out.append(rule)
    return out


def _texts(value: object) -> tuple[str, ...] | None:
    """One text or several; None for anything else."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(v, str) for v in found):
        return None
    return tuple(found)

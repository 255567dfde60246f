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

_HEAD = """# Rules that rewrite the keys of a checkpoint, in order: the first that fits a key is taken.
# {a}, {b} ... stand for numbers, {a-1} for one less; a * in front for any front; what follows is kept.
"""


def dump(rules: Sequence[Rule]) -> str:
    """The text of a file that says these rules."""
    out = [_HEAD]
    for rule in rules:
        out.append("[[rule]]")
        out.append(f"source = {json.dumps(list(rule.source), ensure_ascii=False)}")
        out.append(f"target = {json.dumps(rule.target, ensure_ascii=False)}")
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
        source = [source] if isinstance(source, str) else source
        fits = isinstance(source, list) and source and all(isinstance(s, str) for s in source)
        if (
            not fits
            or not isinstance(target, str)
            or not isinstance(op, str)
            or set(entry) - {"source", "target", "op"}
        ):
            raise UsageError(f"rule {n} is not of the form source, target and perhaps op")
        rule = Rule(tuple(source), target, op)
        reason = unsound(rule)
        if reason is not None:
            raise UsageError(f"rule {n} ({rule}): {reason}")
        out.append(rule)
    return out

"""Why, from the pages of the rules: what ``--explain`` adds to the findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from relight.core.finding import Explanation, Finding, Reference
from relight.core.target import Environment
from relight.facts import data
from relight.facts.versions import at_least
from relight.rulekit.registry import rule_named

_SOURCE_FILE = re.compile(r"[\w./-]+\.(?:py|cc|h)\b")


def explanations(findings: Iterable[Finding], environment: Environment | None) -> Iterator[Explanation]:
    """One for each rule of the findings, in their order.

    Args:
        findings: What was found.
        environment: Where it is loaded: links go to the sources of these versions; None for the newest.
    """
    for code in dict.fromkeys(f.code for f in findings):
        rule = rule_named(code)
        why = _plain(rule.section("Why loading fails"))
        parts = re.split(r";\s+", _plain(rule.section("References")).rstrip("."))
        references = tuple(Reference(p, _address(p, environment)) for p in parts if p)
        yield Explanation(rule.name, rule.code, why, references)


def _plain(text: str) -> str:
    """A section in one line, without the marks of code."""
    return " ".join(text.replace("``", "").split())


def _address(reference: str, environment: Environment | None) -> str | None:
    """Where a reference is to be read: a file of a library at the version that is installed, or a page."""
    known = data.load("upstream")
    for path in _SOURCE_FILE.findall(reference):
        for entry in known["files"]:
            if path.startswith(entry["prefix"]):
                return f"{entry['url'].format(ref=_ref(entry, environment))}{path.removeprefix(entry['prefix'])}"
    return next((str(e["url"]) for e in known["documents"] if reference.startswith(e["begins"])), None)


def _ref(entry: dict[str, str], environment: Environment | None) -> str:
    version = None if environment is None else environment.version(entry["package"], f"pytorch-{entry['package']}")
    released = None if version is None else re.fullmatch(r"\d+\.\d+\.\d+", version.partition("+")[0])
    if version is None or released is None or not at_least(version, entry["since"]):
        return entry["otherwise"]
    return entry["ref"].format(version=released.group())

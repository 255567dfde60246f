"""Finding rules, and choosing among them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from relight.core.errors import RuleDefinitionError, UsageError
from relight.rulekit.rule import Rule


@cache
def builtin_rules() -> tuple[type[Rule], ...]:
    """The rules of ``relight.rules``, by code. Discovery walks the package: adding a rule is adding a file.

    No rules are loaded from the working directory: an auditing tool does not run code that it finds there.
    """
    import relight.rules as package

    found: list[type[Rule]] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")  # noqa: TID251 (the registry)
        found += [
            c
            for c in vars(loaded).values()
            if isinstance(c, type) and issubclass(c, Rule) and c.__module__ == loaded.__name__
        ]
    return _checked(found)


@cache
def all_rules() -> tuple[type[Rule], ...]:
    """Built-in rules and those of installed plugins (entry points of the group ``relight.rules``)."""
    from importlib.metadata import entry_points

    plugins: list[type[Rule]] = []
    for point in entry_points(group="relight.rules"):
        loaded = point.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Rule)):
            raise RuleDefinitionError(point.name, f"the entry point {point.value} is not a Rule subclass")
        plugins.append(loaded)
    return _checked([*builtin_rules(), *plugins]) if plugins else builtin_rules()


def _checked(rules: Iterable[type[Rule]]) -> tuple[type[Rule], ...]:
    seen: dict[str, type[Rule]] = {}
    for rule in rules:
        for key in (rule.code, rule.name):
            if key in seen:
                raise RuleDefinitionError(rule.__name__, f"{key} is already taken by {seen[key].__name__}")
            seen[key] = rule
    return tuple(sorted({*seen.values()}, key=lambda r: r.code))


def rule_named(selector: str) -> type[Rule]:
    """The rule of a code or a name.

    Raises:
        UsageError: There is none.
    """
    for rule in all_rules():
        if selector.upper() == rule.code or selector.lower() == rule.name:
            return rule
    raise _no_such_rule(selector)


def rules_named(selector: str) -> tuple[type[Rule], ...]:
    """The rules that a selector means: a code, the beginning of several (``RL3``), or a name.

    Raises:
        UsageError: There are none.
    """
    found = tuple(r for r in all_rules() if matches(r, selector))
    if not found:
        raise _no_such_rule(selector)
    return found


def matches(rule: type[Rule], selector: str) -> bool:
    """Whether a selector means a rule: its code, a prefix of the code (``RL3``), or its name."""
    return rule.name == selector.lower() or (
        selector.upper().startswith("RL") and rule.code.startswith(selector.upper())
    )


def _no_such_rule(selector: str) -> UsageError:
    import difflib

    rules = all_rules()
    close = difflib.get_close_matches(selector.lower(), [r.name for r in rules], n=3)
    close += difflib.get_close_matches(selector.upper(), [r.code for r in rules], n=2, cutoff=0.75)
    return UsageError(
        f"no rule is called {selector!r}",
        f"Did you mean {' or '.join(close[:3])}?" if close else "All rules: relight rules",
    )

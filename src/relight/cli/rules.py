"""``relight rules``."""

from __future__ import annotations

import click

from relight.cli import options
from relight.rulekit.registry import all_rules


@click.command("rules", context_settings={"help_option_names": ["-h", "--help"]})
@options.output_options("text", "json")
def command(format_: str, output: str | None, color: str) -> int:
    """List all rules: code, name, and what each finds."""
    rules = all_rules()
    if format_ == "json":
        data = [
            {
                "code": r.code,
                "name": r.name,
                "title": r.title(),
                "severity": r.severity.value,
                "causes": list(r.causes),
                "since": r.since,
            }
            for r in rules
        ]
        options.emit(options.as_json({"schema": "relight/rules/1", "rules": data}), output)
        return 0
    width = max(len(r.name) for r in rules)
    options.emit("".join(f"{r.code}  {r.name.ljust(width)}  {r.title()}\n" for r in rules), output)
    return 0

"""``relight explain``."""

from __future__ import annotations

import click

from relight import api
from relight.cli import options


@click.command("explain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("rule", metavar="RULE")
@options.output_options("text", "json")
def command(rule: str, format_: str, output: str | None, color: str) -> int:
    """The page of RULE, by name (layer-added) or code (RL303)."""
    page = api.explain_rule(rule)
    if format_ == "json":
        options.emit(options.as_json({"schema": "relight/rule/1", **page}), output)
        return 0
    style = options.style_for(color, output)
    head = f"{page['code']} {page['name']}"
    fires = [e["name"] for e in page["examples"] if e["fires"]]
    silent = [e["name"] for e in page["examples"] if not e["fires"]]
    lines = [
        style.paint(head, "bold"),
        "",
        page["page"],
        "",
        "Fires on",
        "--------",
        *(f"- {name}" for name in fires),
        "",
        "Stays silent on",
        "---------------",
        *(f"- {name}" for name in silent),
        "",
        f"Causes: {', '.join(page['causes'])}. Since {page['since']}.",
    ]
    options.emit("\n".join(lines) + "\n", output)
    return 0

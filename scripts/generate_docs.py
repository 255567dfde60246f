"""Write the pages that follow from the code: one per rule, one per command, and their index.

``--check`` only compares, and fails while a page is out of date: pages cannot lie.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import click

from relight.cli.app import relight
from relight.facts import data
from relight.rulekit.registry import builtin_rules
from relight.rulekit.rule import Rule

SCRIPTS = Path(__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
_FAMILIES = {
    "RL1": "File and container",
    "RL2": "Pickle contents and names",
    "RL3": "Keys",
    "RL4": "Tensors",
    "RL5": "Lightning structure, versions and hyper_parameters",
    "RL6": "Optimizers, schedulers, loops and callbacks",
    "RL7": "Environment, device and target",
    "RL8": "Safety",
    "RL9": "What a manifest shows: changes without an error",
}


def pages() -> dict[str, str]:
    """Every generated page: path below docs/ to text."""
    out = {f"rules/{r.name}.md": _rule(r) for r in builtin_rules()}
    out["rules/README.md"] = _index()
    out["resuming.md"] = _resuming()
    for name in relight.list_commands(click.Context(relight)):
        out[f"commands/{name}.md"] = _command(name)
    return out


def _rule(rule: type[Rule]) -> str:
    title, _, body = rule.page().partition("\n")
    body = re.sub(r"^(.+)\n-+$", r"## \1", body.strip(), flags=re.MULTILINE).replace("``", "`")
    fires = [e.name for e in rule.examples if type(e).__name__ == "Fires"]
    silent = [e.name for e in rule.examples if type(e).__name__ == "Silent"]
    table = (
        "| code | severity | since | causes |\n|---|---|---|---|\n"
        f"| {rule.code} | {rule.severity.value} | {rule.since} | {', '.join(f'`{c}`' for c in rule.causes)} |"
    )
    parts = [
        f"# {rule.name}",
        title,
        table,
        body,
        "## Fires on\n\n" + "\n".join(f"- {name}" for name in fires),
        "## Stays silent on\n\n" + "\n".join(f"- {name}" for name in silent),
    ]
    return "\n\n".join(parts) + "\n"


def _resuming() -> str:
    """What the real Trainers did, as check_resume.py counted it, and the steps of the migrations."""
    counts: dict[str, dict[str, list[int]]] = json.loads((SCRIPTS / "resumes.json").read_text(encoding="utf-8"))
    readers = sorted(counts, key=_release)
    writers = sorted({w for by in counts.values() for w in by}, key=_release)
    lines = ["| written by |" + "".join(f" resumed by {r}: as it is | after the fix |" for r in readers)]
    lines.append("|---|" + "---|---|" * len(readers))
    for writer in writers:
        cells = []
        for reader in readers:
            before, after, every = counts[reader].get(writer, [0, 0, 0])
            cells += [f"{before} of {every}", f"{after} of {every}"]
        lines.append(f"| {writer} | " + " | ".join(cells) + " |")
    does = {"right": "right", "wrong": "wrong", "nothing": "not at all"}
    steps = ["| since | what changed | Lightning migrates it | source |", "|---|---|---|---|"]
    for step in data.load("migrations")["steps"]:
        since = f", since {step['since']}" if step["since"] else ""
        steps.append(f"| {step['version']} | {step['reason']} | {does[step['lightning']]}{since} | {step['source']} |")
    page = (SCRIPTS / "resuming.md").read_text(encoding="utf-8")
    for name, rows in (("table", lines), ("steps", steps), ("refactored", _refactored())):
        page = page.replace("{{" + name + "}}", "\n".join(rows))
    return page


def _refactored() -> list[str]:
    """What the real Trainer did with refactored models, as check_refactored.py saw it."""
    rows = json.loads((SCRIPTS / "refactored.json").read_text(encoding="utf-8"))
    lines = [
        "| scenario | what changed | said with `relight fix` | resumes at | losses of ten more steps |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        said = " ".join(f"`{option}`" for option in row["options"]) or ("" if row["written"] else "as it is")
        losses = (
            f"others: {row['differs']}"
            if row["differs"]
            else "equal"
            if row["equal"] == 10
            else f"equal in {row['equal']}"
        )
        at = row["wrong"] or "epoch {}, step {}".format(*row["at"])
        lines.append(f"| {row['name'].replace('_', ' ')} | {row['what']} | {said} | {at} | {losses} |")
    return lines


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _index() -> str:
    lines = [
        "# Rules",
        "",
        "Generated from the rules themselves; `relight explain NAME` prints a page in the terminal.",
        "",
    ]
    family = ""
    for rule in builtin_rules():
        if rule.code[:3] != family:
            family = rule.code[:3]
            lines += ["", f"## {_FAMILIES[family]}", "", "| code | name | what it finds |", "|---|---|---|"]
        lines.append(f"| {rule.code} | [{rule.name}]({rule.name}.md) | {rule.title()} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _command(name: str) -> str:
    group = click.Context(relight, info_name="relight")
    command = relight.get_command(group, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=group, max_content_width=80, terminal_width=80)
    return f"# relight {name}\n\n```console\n$ relight {name} --help\n{command.get_help(context)}\n```\n"


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 if a page is out of date")
    args = parser.parse_args()
    wanted = pages()
    there = {p.relative_to(DOCS).as_posix() for folder in ("rules", "commands") for p in (DOCS / folder).glob("*.md")}
    stale = sorted(there - set(wanted))
    for path, text in wanted.items():
        file = DOCS / path
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not args.check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if args.check and stale:
        print(f"out of date: {', '.join(stale)}\nmake docs", file=sys.stderr)
        return 1
    for path in set(stale) - set(wanted):
        (DOCS / path).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

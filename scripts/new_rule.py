"""Start a rule: ``make new-rule CODE=RL312 NAME=tied-weights`` writes the one file that a rule needs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

RULES = Path(__file__).parents[1] / "src" / "relight" / "rules"

SKELETON = '''"""{code}."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Finding, Fix, FixKind
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent


class {class_name}(Rule):
    """One sentence that says what is wrong.

    What it checks
    --------------
    What of file, model and environment it looks at, and when it stays silent.

    Why loading fails
    -----------------
    What the library does, with its own message.

    How to fix
    ----------
    What to change, and what that costs.

    References
    ----------
    File and function of the library that show it.
    """

    code = "{code}"
    name = "{name}"
    causes = ("",)  # ids of the catalogue of known failures
    phase = Phase.{phase}
    needs = frozenset({needs})
    examples = (
        Fires(name="what it must find", file=File(), model=Model()),
        Silent(name="the nearest case in which nothing is wrong", file=File(), model=Model()),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Yield what is found; nothing when all is well."""
        if False:
            yield self.finding(
                "what is wrong, in plain words",
                fixes=[Fix(title="What to do about it.", kind=FixKind.CODE)],
            )
'''


def main() -> int:
    """Write the file, unless code or name are taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("code", help="RL and three digits")
    parser.add_argument("name", help="kebab-case; the problem, never the cure")
    args = parser.parse_args()
    code, name = args.code.upper(), args.name.lower()
    if not re.fullmatch(r"RL[1-9]\d\d", code) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        print("usage: make new-rule CODE=RL312 NAME=tied-weights", file=sys.stderr)
        return 2
    taken = [
        p.name
        for p in RULES.glob("rl*.py")
        if p.name.startswith(f"{code.lower()}_") or p.stem.endswith(f"_{name.replace('-', '_')}")
    ]
    if taken:
        print(f"taken: {', '.join(taken)}", file=sys.stderr)
        return 2
    comparison = code[2] in "34"
    phase = (
        "RESIDUAL" if code[3] == "9" else "COMPARISON" if comparison else "CONTAINER" if code[2] == "1" else "CONTENTS"
    )
    path = RULES / f"{code.lower()}_{name.replace('-', '_')}.py"
    text = SKELETON.format(
        code=code,
        name=name,
        class_name="".join(part.capitalize() for part in name.split("-")),
        phase=phase,
        needs='{"contents", "spec"}' if comparison else '{"contents"}',
    )
    path.write_text(text, encoding="utf-8")
    print(
        f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}\nThen: make test; relight explain {name}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The test kit, shipped: recipes that write tiny real checkpoint files without torch, and the harness for rules."""

from __future__ import annotations

from relight.testing.harness import facts_of, problems_of_rule, run
from relight.testing.recipes import write

__all__ = ["facts_of", "problems_of_rule", "run", "write"]

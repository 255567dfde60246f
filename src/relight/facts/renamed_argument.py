"""The fix that gives a hyper_parameter the name under which the class takes it now."""

from __future__ import annotations

from collections.abc import Mapping

from relight.core.edits import MoveEntry
from relight.core.finding import Applicability, Fix, FixKind
from relight.core.objects import DictNode, mapping_has
from relight.facts.facts import Facts


def fixes(facts: Facts, names: Mapping[str, str]) -> list[Fix]:
    """That fix, where the file holds the names in a plain dict.

    Args:
        facts: All that is known.
        names: New names by those in the file.
    """
    key = facts.lightning.hparams_key
    held = None if key is None else facts.lightning.get(key)
    if not names or key is None or not isinstance(held, DictNode) or not all(mapping_has(held, n) for n in names):
        return []
    if any(mapping_has(held, new) for new in names.values()):
        return []
    return [
        Fix(
            title="Or give it that name in a copy:" if len(names) == 1 else "Or give them those names in a copy:",
            kind=FixKind.FILE,
            applicability=Applicability.MANUAL,
            edits=tuple(MoveEntry((key, old), (key, new)) for old, new in names.items()),
            allow="renamed-argument",
        )
    ]

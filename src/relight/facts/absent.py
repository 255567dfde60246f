"""What the rules on names that are not here share: the way to the weights that needs none of them."""

from __future__ import annotations

from collections.abc import Sequence

from relight.core.finding import Applicability, Fix, FixKind
from relight.core.safety import Safety
from relight.facts import snippets
from relight.facts.facts import Facts
from relight.facts.imports import Found, Resolution
from relight.facts.safety import safety

_MOST_NAMES = 12


def weights_without(facts: Facts, group: Sequence[Resolution]) -> list[Fix]:
    """Code that loads the weights with empty classes for *all* names that are not here.

    One finding of several offers it: that with the first of the names. None does where the file is not to be trusted.

    Args:
        facts: All that is known.
        group: The names of the finding.
    """
    absent = [r for r in facts.resolutions if r.found in (Found.NO_MODULE, Found.NO_ATTRIBUTE)]
    names = list(dict.fromkeys((r.ref.module, r.ref.name) for r in absent))
    if not absent or absent[0] not in group or not facts.checkpoint.tensors:
        return []
    if (
        any("." in name for _, name in names)
        or len(names) > _MOST_NAMES
        or safety(facts.checkpoint) is Safety.DANGEROUS
    ):
        return []
    # What is there is imported first: an empty module in its place would hide the rest of it.
    parents = [
        r.ref.module if r.found is Found.NO_ATTRIBUTE else (r.missing_module or "").rpartition(".")[0]
        for r in absent
        if r.ref.module != "__main__"
    ]
    return [
        Fix(
            title="Or load only the weights, with empty classes in place of what is not here:",
            kind=FixKind.CODE,
            applicability=Applicability.SAFE,
            code=snippets.stand_ins(facts, names, [p for p in dict.fromkeys(parents) if p]),
        )
    ]

"""The fix that writes a copy of a file as plain data, as far as the file has plain forms for what it holds."""

from __future__ import annotations

from collections.abc import Collection

from relight.core.checkpoint import Layout
from relight.core.edits import MakePlain, WrapEntry
from relight.core.finding import Applicability, Fix, FixKind
from relight.core.objects import Call, Global
from relight.facts import class_needs, data, plain_data
from relight.facts.facts import Facts
from relight.facts.versions import at_least

_LONG4 = 0x8B  # a number that protocol 2 cannot write in another way


def fixes(facts: Facts, *, missing: bool = False) -> list[Fix]:
    """That fix, at most one.

    Args:
        facts: All that is known.
        missing: Whether the objects cannot be made here at all, since their module is not there.
    """
    blocked = facts.blocked
    if facts.checkpoint.layout not in (Layout.TORCH_ZIP, Layout.TORCH_LEGACY) or blocked is None:
        return []
    if not blocked.names and blocked.opcode == _LONG4:
        return []
    early = data.load("lightning_behaviour")["torch_load"]["early_reader"]["before"]
    if facts.environment_known and at_least(facts.environment.torch, early) is False:
        return []  # it reads no pickle with a float in it, whatever else is plain
    keep = facts.intent.types
    found = plain_data.preview(facts.checkpoint.root, keep=keep)
    if found.left:
        found = plain_data.preview(facts.checkpoint.root, drop=True, keep=keep)
        if found.left or any(where == "$" for where, _, _ in found.changes):
            return []  # a tensor of a kind that no edit mends, or the file is one object
        dropped = [where for where, _, becomes in found.changes if becomes == plain_data.LEFT_OUT]
        return [
            Fix(
                title="You do not have the source: write a copy without the object, and pass one yourself:"
                if missing
                else "Write a copy without what cannot be plain data:",
                kind=FixKind.FILE,
                applicability=Applicability.UNSAFE,
                note=f"Left out: {_some(dropped)}.",
                edits=(*_wrapped(facts, keep), MakePlain(tuple(found.changes), objects=True, drop=True, keep=keep)),
                allow="drop-object",
            )
        ]
    if found.inexact:
        where, was, becomes = found.inexact[0]
        return [
            Fix(
                title="Write a copy of plain data:",
                kind=FixKind.FILE,
                applicability=Applicability.UNSAFE,
                note=f"Code that uses their methods, or compares them, has to change: {where}, {was}, becomes {becomes}.",
                edits=(*_wrapped(facts, keep), MakePlain(tuple(found.changes), objects=True, keep=keep)),
                allow="plain-objects",
            )
        ]
    if not found.changes and blocked.names:
        return []  # names that nothing of what is kept refers to: rare, and not explained by this
    asked = class_needs.needs(facts, [was for _, was, _ in found.changes])
    return [
        Fix(
            title=_title(found.changes),
            kind=FixKind.FILE,
            applicability=Applicability.MANUAL if asked else Applicability.SAFE,
            note=f"The class asks for more than values: {'; '.join(asked)}." if asked else None,
            edits=(*_wrapped(facts, keep), MakePlain(tuple(found.changes), keep=keep)),
            allow="plain-objects" if asked else None,
        )
    ]


def _wrapped(facts: Facts, keep: Collection[str]) -> tuple[WrapEntry, ...]:
    """One object that holds all hyper_parameters is passed under its argument's name: Lightning makes it a dict otherwise.

    What it was, ``hparams_type`` says by a name that is refused; without it the values would come without attributes.
    """
    view = facts.lightning
    kind, name = view.get("hparams_type"), view.hparams_name
    if not isinstance(kind, Global) or name in (None, "kwargs") or not isinstance(view.get("hyper_parameters"), Call):
        return ()
    if plain_data.accepted(kind) or kind.full_name in keep:
        return ()
    return (WrapEntry(("hyper_parameters",), str(name), ("hparams_name", "hparams_type")),)


def _title(changes: list[tuple[str, str, str]]) -> str:
    attributes = [where for where, _, becomes in changes if becomes.endswith("the same attributes")]
    if not changes:
        return "Write a copy with a pickle of the protocol that it reads:"
    if len(attributes) == len(changes):
        name = attributes[0].rpartition(".")[2] or attributes[0]
        return f"Write a copy of plain data; reading by attribute, as {name}.x, goes on working:"
    return "Write a copy of plain data with the same values:"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

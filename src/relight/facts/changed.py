"""How findings speak of what changed without an error: evidence, the replayed probe, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relight.core.finding import Confidence, Evidence, Fix, FixKind
from relight.core.target import IntentCall
from relight.facts.describe import counted
from relight.facts.facts import Facts
from relight.facts.makes import Change
from relight.facts.patterns import folded

_SHOWN = 6


def evidence(facts: Facts, changes: Sequence[Change]) -> list[Evidence]:
    """One line per kind of change, with how often it occurs."""
    verb = facts.manifest.verb
    alike: dict[tuple[str | None, str | None], list[Change]] = {}
    for change in changes:
        alike.setdefault((change.saved, change.now), []).append(change)
    lines: list[Evidence] = []
    for (saved, now), group in alike.items():
        for pattern, labels in folded({c.label: (c.label,) for c in group}).items():
            first = next(c for c in group if c.label == labels[0])
            times = f" ({len(labels)} times)" if len(labels) > 1 else ""
            lines.append(Evidence(pattern, f"{_was(verb, saved, now)}{times}", first.line))
    if len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], Evidence("...", f"{len(lines) - _SHOWN} more")]
    return lines


def _was(verb: str, saved: str | None, now: str | None) -> str:
    if saved is None:
        return f"not there when it was {verb}, now {now}"
    return f"{verb} with {saved}, now {'gone' if now is None else now}"


def only_training(changes: Iterable[Change]) -> bool:
    """Whether none of them changes an answer."""
    return all(c.only_training for c in changes)


def is_wrong(facts: Facts, *, training: bool) -> bool:
    """Whether what is loaded computes something else than what was saved, for the purpose that was asked about."""
    if training:
        return facts.intent.call is IntentCall.RESUME
    outcome = facts.replayed
    return outcome is None or outcome.same is not True


def confidence(facts: Facts, *, certain: bool = True) -> Confidence:
    """CERTAIN where the two differ by their nature, or the answers show it."""
    outcome = facts.replayed
    if facts.spec.approximated or facts.other_arguments:
        return Confidence.LIKELY
    return Confidence.CERTAIN if certain or (outcome is not None and outcome.same is False) else Confidence.LIKELY


def context(facts: Facts, why: str, *, training: bool = False) -> list[str]:
    """Why loading cannot notice, what else was compared, and what the replayed probe showed."""
    out = [f"{why}{_rest(facts)}", *sealed(facts)]
    if training:
        out.append("Answers in eval mode are the same: only training notices.")
        return out
    outcome = facts.replayed
    if outcome is None:
        if facts.manifest.part("probe"):
            out.append(
                "Not replayed on the recorded input; --prove does that."
                if facts.keys.clean
                else "Not replayed on the recorded input: that needs a file that loads."
            )
    elif outcome.same is None:
        out.append(f"Replaying the recorded input showed nothing: {outcome.reason}.")
    elif outcome.same:
        out.append(f"Replayed on the recorded input form ({outcome.form}, seeded): the answers are the same.")
    else:
        out.append(f"Replayed on the recorded input form ({outcome.form}, seeded): {outcome.text}.")
    return out


def sealed(facts: Facts) -> list[str]:
    """What a manifest does not know that was added to a file later."""
    day = facts.manifest.sealed
    if day is None:
        return []
    return [f"The manifest was sealed later ({day}): it tells the code of that day, not that of the training run."]


def _rest(facts: Facts) -> str:
    """What was compared and is as it was; only what was compared."""
    changes = facts.changes
    same = []
    if facts.keys.clean:
        same.append(counted(len(facts.checkpoint.tensors), "tensor"))
    known = facts.manifest.make is not None and facts.manifest.make.functions
    if known and changes.code_compared and not changes.functions:
        same.append("code of forward")
    return f" As it was: {', '.join(same)}." if same else ""


def meant(facts: Facts, name: str) -> Fix:
    """The last remedy: a change that was wanted."""
    return Fix(
        title="Meant it? Fine-tune, then save again. In CI, until then:",
        kind=FixKind.NONE,
        command=facts.question.command("check", None, "--ignore", name),
    )

"""What the comparison rules share: the error that all of them lead to, and how sure it is."""

from __future__ import annotations

from relight.core.finding import Confidence, Prediction, Severity, Stage
from relight.facts import describe
from relight.facts.attribution import Explanation
from relight.facts.facts import Facts


def load_error(facts: Facts) -> Prediction | None:
    """The RuntimeError of ``load_state_dict`` with its whole text; None if it raises nothing."""
    message = facts.keys.message(strict=facts.strict)
    if message is None:
        return None
    call = facts.call_name if facts.calls_lightning else "load_state_dict"
    return Prediction(Stage.LOAD_STATE_DICT, call, "RuntimeError", message)


def confidence(facts: Facts, explanation: Explanation | None = None) -> Confidence:
    """CERTAIN unless other arguments, hooks, stand-ins or equal candidates leave room for another reading."""
    if facts.other_arguments:
        return Confidence.POSSIBLE
    if facts.spec.approximated or facts.keys.uncertain:
        return Confidence.LIKELY
    if explanation is not None and not explanation.certain:
        return Confidence.LIKELY
    return Confidence.CERTAIN


def new_fit(facts: Facts, fails: str) -> str:
    """What a way of loading means for a resume; nothing where the file holds no optimizer's state to resume from.

    Args:
        facts: All that is known.
        fails: When resuming fails, as the end of a sentence: ``if the optimizer gets layer3``.
    """
    if not can_resume(facts):
        return ""
    covered = describe.tensors(facts.lightning.optimizer_entries[0][1])
    return f" Then start a new fit; resuming (ckpt_path=) fails {fails}: its state covers {covered}."


def can_resume(facts: Facts) -> bool:
    """Whether the file holds an optimizer's state, and the call is one of Lightning's, which might restore it."""
    return bool(facts.calls_lightning and facts.lightning.optimizer_entries)


def hides(*, alone: bool) -> str:
    """What ``strict=False`` hides besides the finding that it is offered for; that was checked."""
    if alone:
        return "Here strict=False hides nothing else."
    return "strict=False also hides the other differences listed here: mend those first."


def severity(facts: Facts, explanation: Explanation) -> Severity:
    """ERROR where it raises; with ``strict=False`` missing and unexpected keys load as random or not at all."""
    if facts.strict or explanation.mismatched:
        return Severity.ERROR
    return Severity.WARNING

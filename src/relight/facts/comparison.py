"""What the comparison rules share: the error that all of them lead to, and how sure it is."""

from __future__ import annotations

from relight.core.finding import Confidence, Prediction, Severity, Stage
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


def severity(facts: Facts, explanation: Explanation) -> Severity:
    """ERROR where it raises; with ``strict=False`` missing and unexpected keys load as random or not at all."""
    if facts.strict or explanation.mismatched:
        return Severity.ERROR
    return Severity.WARNING

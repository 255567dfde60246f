"""Exceptions that relight raises.

A bad checkpoint is never an exception: it is a `Problem` in what was read. Exceptions are for what the caller did
(a path that is not there, an option that does not exist) and for defects of relight itself.
"""

from __future__ import annotations


class RelightError(Exception):
    """Base class of every exception that relight raises on purpose."""


class SourceError(RelightError):
    """The bytes could not be reached: no such file, no permission, an I/O error.

    Args:
        path: What was asked for.
        reason: Why it could not be opened, in words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # fields as args: exceptions that cross processes survive pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.reason}"


class UsageError(RelightError):
    """The question does not make sense as it was asked.

    Args:
        message: What is wrong.
        hint: What to do instead, or None where there is nothing better to say.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class RepairError(RelightError):
    """A file cannot be repaired as planned; nothing was written.

    Args:
        path: The file that was to be repaired.
        reason: Why not, in words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot repair {self.path}: {self.reason}"


class NothingToRepair(RepairError):
    """There is nothing that a repair would do unasked."""


class ConversionError(RepairError):
    """A checkpoint cannot be written in another layout; nothing was written."""

    def __str__(self) -> str:
        return f"cannot convert {self.path}: {self.reason}"


class LoadError(RelightError):
    """A checkpoint does not load; the text is the whole report, the cause what the library raised.

    Args:
        path: The checkpoint.
        explanation: Why it does not load, and what to do.
    """

    def __init__(self, path: str, explanation: str) -> None:
        super().__init__(path, explanation)
        self.path = path
        self.explanation = explanation

    def __str__(self) -> str:
        return self.explanation


class RuleDefinitionError(RelightError):
    """A rule class is not well formed.

    Args:
        rule: Name of the class.
        reason: What is missing or contradictory.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(rule, reason)
        self.rule = rule
        self.reason = reason

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.reason}"


class MissingFact(RelightError):
    """A rule asked for a fact that this check does not have.

    Args:
        fact: Which one: ``target``, ``environment``, ...
        reason: Why it is absent, in words that a report can show.
    """

    def __init__(self, fact: str, reason: str) -> None:
        super().__init__(fact, reason)
        self.fact = fact
        self.reason = reason

    def __str__(self) -> str:
        return self.reason

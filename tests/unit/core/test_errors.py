from __future__ import annotations

import pickle  # noqa: TID251 (what a process pool does)

import pytest

from relight.core import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.SourceError("a.ckpt", "there is no such file"),
        errors.UsageError("no rule is called 'x'", "Did you mean y?"),
        errors.RuleDefinitionError("MyRule", "code is missing"),
        errors.MissingFact("target", "no --target was given"),
    ],
)
def test_errors_cross_processes(error: errors.RelightError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)

from __future__ import annotations

import pytest

from relight.facts.versions import at_least, release


@pytest.mark.parametrize(
    ("version", "bound", "expected"),
    [
        ("2.13.0+cpu", "2.6", True),
        ("2.6", "2.6.0", True),
        ("1.10.2", "1.9", True),
        ("2.5.1.post0", "2.6", False),
        ("0.7.6", "0.8", False),
        (None, "1.0", None),
        ("latest", "1.0", None),
    ],
)
def test_at_least(version: str | None, bound: str, expected: bool | None) -> None:
    assert at_least(version, bound) is expected


def test_release() -> None:
    assert release("v2.6.0.dev1+cpu") == (2, 6, 0)
    assert release("main") == ()
    assert release("9" * 5000) == ()

"""Needs the real torch and Lightning; every test of this folder asks them."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Lightning says of a run that is as short as these."""
    import warnings

    warnings.simplefilter("ignore")

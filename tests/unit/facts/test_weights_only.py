"""Which default of weights_only a call has: versions, the call, and what is loaded."""

from __future__ import annotations

import pytest

from relight.core.target import Environment, Intent, IntentCall
from relight.facts.imports import weights_only_in_effect

NOW = Environment(packages={"torch": "2.13.0", "lightning": "2.6.6"})


@pytest.mark.parametrize(
    "intent, path, expected",
    [
        (Intent(), "model.ckpt", True),
        (Intent(), "https://example.com/model.ckpt", False),
        (Intent(call=IntentCall.RESUME), "https://example.com/model.ckpt", False),
        (Intent(weights_only=True), "https://example.com/model.ckpt", True),
        (Intent(), "s3://bucket/model.ckpt", True),
    ],
)
def test_default(intent, path, expected):
    assert weights_only_in_effect(intent, NOW, path) is expected


def test_what_lightning_does_with_a_url():
    import inspect

    cloud_io = pytest.importorskip("lightning_fabric.utilities.cloud_io")
    source = inspect.getsource(cloud_io._load)
    assert 'startswith("http")' in source
    assert "weights_only = False" in source

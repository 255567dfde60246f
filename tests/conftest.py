"""Shared by all tests: helper modules lie in ``tests/support`` and are imported by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

# The models are tiny, and several processes share the cores: more threads only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long a case takes to make says how busy the machine is, and nothing about the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

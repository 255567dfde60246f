"""Facts about the world as JSON files; each entry names its source."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any


@cache
def load(name: str) -> Any:
    """The contents of ``NAME.json`` in this folder, read once."""
    with open(os.path.join(os.path.dirname(__file__), f"{name}.json"), encoding="utf-8") as file:
        return json.load(file)

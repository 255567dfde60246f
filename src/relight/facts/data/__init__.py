"""Facts about the world as JSON files; each entry names its source."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def load(name: str) -> Any:
    """The contents of ``NAME.json`` in this folder, read once."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))

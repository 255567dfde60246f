"""Write ``facts/data/weights_only.json`` from the installed torch: what ``weights_only=True`` accepts.

Run it in the development environment after changing the torch pin; a test fails while the file is out of date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from pathlib import Path

import pytorch_lightning  # noqa: F401  (importing Lightning registers further safe globals)
import torch
from torch import _weights_only_unpickler as unpickler

DATA = Path(__file__).parents[1] / "src" / "relight" / "facts" / "data" / "weights_only.json"


def current() -> dict[str, object]:
    """The data as the installed torch has it."""
    source = inspect.getsource(unpickler.Unpickler.load)
    import pickle  # noqa: TID251 (opcode constants only)

    names = set(re.findall(r"key\[0\] (?:==|in) \[?((?:[A-Z0-9_]+\[0\](?:, )?)+)", source))
    opcodes = sorted({getattr(pickle, n)[0] for group in names for n in re.findall(r"([A-Z0-9_]+)\[0\]", group)})
    version = torch.__version__.split("+")[0]
    return {
        "source": f"torch {version}, torch/_weights_only_unpickler.py: _get_allowed_globals(), Unpickler.load()",
        "torch": version,
        "opcodes": opcodes,
        "globals": sorted(unpickler._get_allowed_globals()),
        "registered": {
            "source": f"add_safe_globals() calls made by importing torch {version} and pytorch_lightning",
            "globals": sorted(unpickler._get_user_allowed_globals()),
        },
        "blocked_modules": sorted(unpickler._blocklisted_modules),
    }


def main() -> int:
    """Write the file, or with ``--check`` only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit status 1 if different")
    args = parser.parse_args()
    text = json.dumps(current(), indent=1) + "\n"
    if args.check:
        return 0 if DATA.read_text(encoding="utf-8") == text else 1
    DATA.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

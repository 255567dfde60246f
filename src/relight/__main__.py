"""``python -m relight`` is the command."""

from __future__ import annotations

from relight.cli.app import main

if __name__ == "__main__":
    main()

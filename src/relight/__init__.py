"""relight: will this checkpoint load, into this model, here, for this purpose, and if not, how do I make it?"""

from __future__ import annotations

__version__ = "0.1.0"

"""The CRC-32 of zip archives, computed as fast as what is installed allows."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

Crc32: TypeAlias = "Callable[[bytes | bytearray | memoryview, int], int]"


@cache
def fastest() -> Crc32:
    """That of isal where it is installed (the extra ``fast``), else the standard library's.

    Both let other threads run meanwhile. The one of zlib takes as long as copying does, that of isal a tenth of it.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    found: Crc32 = isal_zlib.crc32
    return found

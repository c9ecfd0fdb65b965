"""Memory that a program has freed, and that the C library keeps for itself until it is asked to return it."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


@functools.lru_cache(maxsize=1)
def _trim() -> Any:
    """The malloc_trim of glibc; None elsewhere, where freed memory is returned without being asked for."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None


def release() -> None:
    """Return freed memory to the system."""
    trim = _trim()
    if trim is not None:
        trim(0)

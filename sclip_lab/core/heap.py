"""Give freed memory back to the operating system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give back freed blocks of up to 32 MB, which glibc holds and never reuses for larger ones."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)

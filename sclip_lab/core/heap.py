"""Give freed memory back to the operating system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give back what glibc holds: freed blocks of up to 32 MB, which larger ones never reuse."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)

"""Python's collector of cyclic garbage, seldom at work while a command loads, composes and reads.

Nearly all that a command makes there lives to its end, so that a fifth of a finished sweep went
into looking for garbage. While networks run it works as always: garbage there can hold activations.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALWAYS = gc.get_threshold()
SELDOM = (100_000, 50, 50)


@contextmanager
def seldom() -> Iterator[None]:
    """Within it, garbage is looked for after many more new objects than usual."""
    with _threshold(SELDOM):
        yield


@contextmanager
def as_always() -> Iterator[None]:
    """Within it, garbage is looked for as Python does by itself."""
    with _threshold(ALWAYS):
        yield


@contextmanager
def _threshold(wanted: tuple[int, int, int]) -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*wanted)
    try:
        yield
    finally:
        gc.set_threshold(*before)

"""Comparisons of official outputs with ours: which there are, and what they say of one file.

A comparison is a generator ``(toy, name, arrays) -> Compared ...`` that its decorator registers for
the files it is about. Adding a module to this folder adds its comparisons to the tests and to
``make parity``. An array that no comparison compares and none declares as what it starts from is
wrong.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.vector_set import Arrays, Kept, VectorSet

# Suggested by the READMEs of the vectors: official codes differ from themselves in float64 by
# 6e-6 (features).
FEATURES = 5e-5
HALF_FEATURES = 2e-3  # position embeddings rounded to half precision on the way
WEIGHTS = 1e-5
LOGITS = 1e-5
PROBABILITIES = 1e-4
PIXELS = 10  # labels that may differ: near-ties

Comparison = Callable[[VectorSet, str, Arrays], "Iterator[Compared]"]
_REGISTERED: dict[str, list[Comparison]] = {}
# What comparisons start from, by file: patterns of keys. Everywhere: which rows were kept.
_INPUTS: dict[str, list[str]] = {}
INDEX = r".+_index"


@dataclass(frozen=True)
class Compared:
    """One array against ours.

    Attributes:
        array: its key.
        error: largest absolute difference, or number of unequal entries; inf for another shape.
        tolerance: what it may be.
        ours: our array.
    """

    array: str
    error: float
    tolerance: float
    ours: Any = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.array}: {self.error:.2e} of {self.tolerance:.0e}"


def comparison(*files: str, inputs: str | None = None) -> Callable[[Comparison], Comparison]:
    """Register a comparison.

    Args:
        files: by name, without their ending.
        inputs: a pattern of the keys that it starts from instead of comparing them: texts, maps,
            settings, facts about the run.
    """

    def register(function: Comparison) -> Comparison:
        for name in files:
            _REGISTERED.setdefault(name, []).append(function)
            _INPUTS.setdefault(name, [INDEX]).extend([inputs] if inputs else [])
        return function

    return register


@cache
def _discover() -> None:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "compare", "vector_set"):
            importlib.import_module(f"tests.parity.{path.stem}")


def registered() -> dict[str, list[Comparison]]:
    """Comparisons by file."""
    _discover()
    return _REGISTERED


def compare(toy: VectorSet, name: str) -> list[Compared]:
    """All comparisons of one file; infinitely wrong is an array that none is about, or with NaN."""
    arrays = toy.load(name)
    comparisons = [each for one in registered().get(name, []) for each in one(toy, name, arrays)]
    compared = {one.array for one in comparisons}
    for key in arrays:
        if key not in compared and not any(re.fullmatch(p, key) for p in _INPUTS.get(name, [])):
            comparisons.append(Compared(f"{key} (not compared)", float("inf"), 0))
        elif not _finite(arrays[key]):
            comparisons.append(Compared(f"{key} (not finite)", float("inf"), 0))
    return comparisons


def difference(ours: Any, official: np.ndarray) -> float:
    """Largest absolute difference; infinite for another shape, NaN or infinity."""
    ours = _seen(ours, official)
    if ours.shape != official.shape or not _finite(ours) or not _finite(official):
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - official).max()) if ours.size else 0.0


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def close(array: str, ours: Any, official: np.ndarray, tolerance: float) -> Compared:
    return Compared(array, difference(ours, official), tolerance, ours)


def unequal(array: str, ours: Any, official: np.ndarray, tolerance: float = 0) -> Compared:
    """Integers or labels: how many differ."""
    ours = _seen(ours, official)
    same = ours.shape == official.shape and _finite(ours)
    error = float((ours != official).sum()) if same else float("inf")
    return Compared(array, error, tolerance, ours)


def _seen(ours: Any, official: np.ndarray) -> np.ndarray:
    """Ours, or what was kept of the official array of it."""
    ours = np.asarray(ours)
    index = getattr(official, "index", None) if isinstance(official, Kept) else None
    return ours if index is None else np.take(ours, index, official.axis)  # type: ignore[attr-defined]

"""Measures of what an attention variant does, beside the score it gets.

``MEASURES`` are those of one variant on one photo's windows, by name; `docs/diagnostics.md` lists
them. What compares any two representations is a plain function: `features.linear_cka`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from sclip_lab.core.errors import unknown
from sclip_lab.diagnostics.layers import Layers
from sclip_lab.diagnostics.measure import NONE, Measure, Value, compute, values
from sclip_lab.diagnostics.measures import MEASURES
from sclip_lab.diagnostics.observation import Observation, Scene

__all__ = [
    "MEASURES",
    "NONE",
    "Layers",
    "Measure",
    "Observation",
    "Scene",
    "Value",
    "check",
    "code_of",
    "measure",
    "values",
]


def check(names: Iterable[str]) -> None:
    """Raises LabError (did you mean) where a name is not one of ``MEASURES``."""
    for name in names:
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)


def code_of(name: str) -> str:
    """Digest of the code that a measure's numbers come out of; "" for a name that is none."""
    return MEASURES[name].code if name in MEASURES else ""


def measure(observation: Observation, names: Iterable[str]) -> dict[str, Tensor]:
    """Measures of one observation.

    Args:
        observation: one variant on a batch of windows.
        names: keys of ``MEASURES``.

    Returns:
        per name, (batch,) floats; NaN where a measure has no meaning: a method without an
        attention map, a window of a single class.

    Raises:
        LabError: unknown name.
    """
    names = list(names)
    check(names)
    return {name: compute(MEASURES[name], observation) for name in names}

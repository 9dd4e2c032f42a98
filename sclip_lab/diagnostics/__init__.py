"""Measures of what an attention variant does, beside the score it gets.

``MEASURES`` are those of one variant on one photo's windows, by name; `docs/diagnostics.md` lists
them. What compares any two representations is a plain function: `features.linear_cka`.
"""

from __future__ import annotations

from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.catalogue import MEASURES, find
from sclip_lab.diagnostics.layers import Layers
from sclip_lab.diagnostics.measure import NONE, Measure, Value, compute, values
from sclip_lab.diagnostics.observation import Observation, Scene

__all__ = [
    "MEASURES",
    "NONE",
    "Layers",
    "Measure",
    "Observation",
    "Scene",
    "Value",
    "code_of",
    "compute",
    "find",
    "values",
]


def code_of(name: str) -> str:
    """Digest of the code that a measure's numbers come out of; "" for a name that is none here."""
    try:
        return find(name).code
    except LabError:
        return ""

"""Measures of what an attention variant does, beside the score it gets.

``MEASURES`` holds, by name, all measures of one variant on one photo's windows;
`docs/diagnostics.md` lists them. A plain function, `features.linear_cka`, compares any two
representations.
"""

from __future__ import annotations

from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.catalogue import MEASURES as MEASURES
from sclip_lab.diagnostics.catalogue import find as find
from sclip_lab.diagnostics.layers import Layers as Layers
from sclip_lab.diagnostics.measure import NONE as NONE
from sclip_lab.diagnostics.measure import Measure as Measure
from sclip_lab.diagnostics.measure import Value as Value
from sclip_lab.diagnostics.measure import compute as compute
from sclip_lab.diagnostics.measure import values as values
from sclip_lab.diagnostics.observation import Observation as Observation
from sclip_lab.diagnostics.observation import SegmentedPhoto as SegmentedPhoto


def code_of(name: str) -> str:
    """Digest of the code that computes a measure; "" if there is no measure of this name."""
    try:
        return find(name).code
    except LabError:
        return ""

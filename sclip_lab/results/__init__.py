"""The store as one tidy DataFrame: a row per (spec, image, true class, predicted class), pixels.

Everything reported is a groupby of it: see `miou`, `iou`, `pixel_accuracy`, `summary`, `bootstrap`
and `difference`. Scores are fractions in [0, 1]; x100 is for display.
"""

from sclip_lab.results.loading import diagnostics, load, records, specs
from sclip_lab.results.scores import iou, miou, pixel_accuracy
from sclip_lab.results.uncertainty import bootstrap, difference, summary

__all__ = [
    "bootstrap",
    "diagnostics",
    "difference",
    "iou",
    "load",
    "miou",
    "pixel_accuracy",
    "records",
    "specs",
    "summary",
]

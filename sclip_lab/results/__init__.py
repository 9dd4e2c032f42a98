"""The store as one tidy DataFrame: a row per (spec, image, true class, predicted class), pixels.

Everything reported is a groupby of this table: scores (`miou`, `iou`, `pixel_accuracy`), their
intervals (`summary`, `bootstrap`), comparisons (`difference`, `differences`, `all_pairs`), means
over data sets (`mean_over_datasets`, `mean_differences`, `ranks`), photos per class (`support`),
scores of predictions made without a look at the photo (`floors`), and correlations of diagnostics
with scores (`relations`).
Scores are fractions in [0, 1]; x100 is for display.
"""

from sclip_lab.results.statistics.across import mean_differences, mean_over_datasets, ranks
from sclip_lab.results.statistics.comparisons import all_pairs, difference, differences
from sclip_lab.results.statistics.floors import floors
from sclip_lab.results.statistics.relations import relations
from sclip_lab.results.statistics.uncertainty import bootstrap, summary
from sclip_lab.results.store.reading import diagnostics, load, records, specs
from sclip_lab.results.table.choices import Choice
from sclip_lab.results.table.scores import iou, miou, pixel_accuracy
from sclip_lab.results.table.support import support

__all__ = [
    "Choice",
    "all_pairs",
    "bootstrap",
    "diagnostics",
    "difference",
    "differences",
    "floors",
    "iou",
    "load",
    "mean_differences",
    "mean_over_datasets",
    "miou",
    "pixel_accuracy",
    "ranks",
    "records",
    "relations",
    "specs",
    "summary",
    "support",
]

"""Where chosen points look: vanilla attention and CSA, over the whole photo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.paper.claims import Claim, difference_in_words, mean_difference, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import specs
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure
from sclip_lab.report.pictures import attention_maps, attention_over_photo
from sclip_lab.results.store.picture_files import Picture, Prediction

if TYPE_CHECKING:
    from sclip_lab.data.base import Sample
    from sclip_lab.evaluation.spec import Spec

POINTS = 3
CAPTION = "mean of each diagnostic over photos; docs/diagnostics.md says what they are"
CLAIMS = {
    "spatial_invariance": ("CSA's maps depend on where they look from more than vanilla's", -1),
    "inter_class_mass": ("Less of CSA's attention falls on other classes than of vanilla's", -1),
    "attention_same_class_auroc": ("CSA's weights tell the same class from others better", 1),
}


def _cells(evidence: Evidence) -> dict[str, str]:
    names = ("vanilla", "csa")
    return {n: key for n, key in zip(names, specs(evidence, *names), strict=True) if key}


def _claims(evidence: Evidence) -> list[Claim]:
    """Claims on the mean difference of a measure, paired over photos: see `mean_difference`."""
    cells = _cells(evidence)
    if len(cells) < 2 or not len(evidence.measured):
        return [missing(text, "not measured") for text, _ in CLAIMS.values()]
    return [
        mean_difference(evidence, measure, cells["csa"], cells["vanilla"], sign, text)
        for measure, (text, sign) in CLAIMS.items()
    ]


def _sample(evidence: Evidence, any_spec: Spec) -> Sample:
    names, requested = list(any_spec.dataset.names), evidence.options.get("image")
    if requested is None:
        return any_spec.dataset[0]
    if requested not in names:
        raise unknown(f"image of {any_spec.dataset.name}", requested, names)
    return any_spec.dataset[names.index(requested)]


def _figures(evidence: Evidence) -> dict[str, Figure]:
    cells = {name: key for name, key in _cells(evidence).items() if key in evidence.specs}
    if not cells:
        return {}
    first = evidence.specs[next(iter(cells.values()))]
    sample = _sample(evidence, first)
    height, width = sample.mask.shape
    points = evidence.options.get("points")
    if not points:
        from sclip_lab.evaluation.observers import region_points  # imports torch

        chosen = region_points(sample.mask, first.dataset.ignore_index, POINTS)
        points = [(int(row), int(column)) for row, column in chosen]
    for row, column in points:
        if not (0 <= row < height and 0 <= column < width):
            raise LabError(
                f"--points {row},{column} lies outside {sample.name}, {height} x {width}"
            )
    specs = {name: evidence.specs[key] for name, key in cells.items()}
    return {"attention": _drawn(sample, points, specs)}


def _drawn(sample: Sample, points: list[tuple[int, int]], specs: dict[str, Spec]) -> Figure:
    boxes = np.tile([0, 0, *sample.mask.shape], (len(points), 1))  # maps are of the whole photo
    predictions = []
    for name, spec in specs.items():
        maps = np.stack(attention_over_photo(spec, sample.image, points))
        shown = None if np.isnan(maps).all() else maps
        predictions.append(Prediction(name, sample.mask, np.array(points), shown, boxes))
    picture = Picture(sample.name, sample.image, sample.mask, [], 0, predictions)
    figure = attention_maps([picture], largest=2.0)
    listed = "; ".join(f"{row},{column}" for row, column in points)
    figure.set_label(
        f"{sample.name}: where the patch under each ring looks, mean over heads; rings at {listed} "
        "(row,column in pixels); grey: no window holds both the point and the place"
    )
    return figure


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    cells = _cells(evidence)
    if not len(evidence.measured):
        return {}
    rows = evidence.measured.assign(spec=evidence.measured["spec"].astype(str))
    names = {key: name for name, key in cells.items()}
    grid = rows.assign(variant=rows["spec"].map(names)).pivot_table(
        index="measure", columns="variant", values="value", observed=True
    )
    table = grid.rename_axis(None, axis=1).reset_index()
    table.attrs = {"plain": tuple(names.values()), "caption": CAPTION}
    return {"attention": table}


def _localises(evidence: Evidence) -> str:
    cells = _cells(evidence)
    if len(cells) < 2 or not len(evidence.measured):
        return ""
    words = {"inter_class_mass": "of its attention {:.2f} falls on other classes",
             "spatial_invariance": "the maps of two patches correlate by {:.2f}"}  # fmt: skip
    values = {measure: evidence.values(measure) for measure in words}
    parts = []
    for name, key in cells.items():
        facts = [
            text.format(values[m][key].mean()) for m, text in words.items() if key in values[m]
        ]
        parts.append(f"{name}: {', '.join(facts)}")
    return f"{'; '.join(parts)}. Only interventions can say whether that makes the score."


def _transformation(evidence: Evidence) -> str:
    cells = _cells(evidence)
    if len(cells) < 2:
        return ""
    return (
        "The same patches look at other places, see the figure: "
        f"{difference_in_words(evidence, cells['csa'], cells['vanilla'])}."
    )


STUDY = Study(
    question="Where does the patch under a chosen point look, with vanilla attention and with CSA?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    answers={"localises": _localises, "transformation": _transformation},
    order=5,
)

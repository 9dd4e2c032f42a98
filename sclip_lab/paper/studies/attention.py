"""Where chosen points look: vanilla attention and CSA, over the whole photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.paper.claims import Claim, difference_in_words, mean_difference, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import specs
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure
from sclip_lab.report.pictures import FONT, attention_over_photo

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
    """Paired over photos: the mean difference of a measure with Student's interval."""
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
    points = evidence.options.get("points") or _default_points(sample, first)
    for row, column in points:
        if not (0 <= row < height and 0 <= column < width):
            raise LabError(
                f"--points {row},{column} lies outside {sample.name}, {height} x {width}"
            )
    specs = {name: evidence.specs[key] for name, key in cells.items()}
    return {"attention": _drawn(sample, points, specs)}


def _default_points(sample: Sample, any_spec: Spec) -> list[tuple[int, int]]:
    from sclip_lab.evaluation.observers import region_points

    points = region_points(sample.mask, any_spec.dataset.ignore_index, POINTS)
    return [(int(row), int(column)) for row, column in points]


def _drawn(sample: Sample, points: list[tuple[int, int]], specs: dict[str, Spec]) -> Figure:
    rows, columns = 1 + len(specs), len(points)
    ratio = sample.mask.shape[0] / sample.mask.shape[1]
    colors = ["#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00"]
    with rc_context(FONT):
        figure = Figure(figsize=(0.9 + 2.0 * columns, 0.3 + 2.0 * ratio * rows),
                        layout="constrained")  # fmt: skip
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        maps = {name: attention_over_photo(s, sample.image, points) for name, s in specs.items()}
        grey = sample.image.mean(2) / 255 * 0.5 + 0.5
        for column, (y, x) in enumerate(points):
            color = colors[column % len(colors)]
            axes[0, column].imshow(sample.image)
            axes[0, column].set_title(f"point {y},{x}")
            for row, name in enumerate(specs, start=1):
                weights = maps[name][column]
                ax = axes[row, column]
                ax.imshow(grey, cmap="gray", vmin=0, vmax=1)
                top = float(np.nanmax(weights)) or 1.0
                ax.imshow(weights, cmap="inferno", vmin=0, vmax=top, alpha=0.8)
            for ax in axes[:, column]:
                ax.plot(x, y, "o", ms=7, mfc="none", mec="black", mew=2.4)
                ax.plot(x, y, "o", ms=7, mfc="none", mec=color, mew=1.4)
                ax.set_xticks([])
                ax.set_yticks([])
        shades = ScalarMappable(Normalize(0, 1), "inferno")
        bar = figure.colorbar(shades, ax=axes[1:], shrink=0.6, aspect=30, pad=0.01)
        bar.set_ticks([0, 1], labels=["0", "map's\nmaximum"])
        figure.set_label(
            f"{sample.name}: where the patch under each point looks, mean over heads; points are "
            "row,column in pixels; grey: no window holds both the point and the place"
        )
        for row, name in enumerate(["photo", *specs]):
            axes[row, 0].set_ylabel(name)
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
    rows = evidence.measured.assign(spec=evidence.measured["spec"].astype(str))
    means = rows.groupby(["measure", "spec"], observed=True)["value"].mean()
    words = {"inter_class_mass": "of its attention {:.2f} falls on other classes",
             "spatial_invariance": "the maps of two patches correlate by {:.2f}"}  # fmt: skip
    parts = []
    for name, spec_key in cells.items():
        values = [
            text.format(means[measure, spec_key])
            for measure, text in words.items()
            if (measure, spec_key) in means
        ]
        parts.append(f"{name}: {', '.join(values)}")
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

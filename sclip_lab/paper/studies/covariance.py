"""Which diagnostic goes with the score, and what CSA changes in which layer and head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics import MEASURES
from sclip_lab.paper.claims import Claim, Comparison, few_photos, gated, missing, whole
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import label_points, specs
from sclip_lab.report.diagnostic_charts import GOOD
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import COLORS, Figure, charts, paged
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS
from sclip_lab.results.statistics.relations import FEWEST

RESAMPLES = 500
PAGE = 12  # charts in one picture
# Measures that SCLIP's argument is about, and the side on which it says that good variants lie.
# `Measure.better` may name no side: a map that is blind to content can be as low.
CLAIMED = {
    "spatial_invariance": "low",
    "inter_class_mass": "low",
    "attention_same_class_auroc": "high",
    "feature_same_class_auroc": "high",
}
MAPPED = ("spatial_invariance", "inter_class_mass", "attention_entropy")


@lru_cache(maxsize=1)  # for claims, table and figures of one part
def correlations(evidence: Evidence) -> pd.DataFrame:
    """`results.relations` of these cells, strongest first, with columns named as a page shows
    them."""
    if not len(evidence.measured):
        return pd.DataFrame()
    try:
        # A measure of the outcome reads the masks, as the score does, and so explains nothing.
        outcomes = [name for name, measure in MEASURES.items() if measure.outcome]
        measured = evidence.measured[~evidence.measured["measure"].isin(outcomes)]
        table = results.relations(evidence.df, measured, n=RESAMPLES)
    except LabError:
        return pd.DataFrame()
    table = table[table["spearman"].notna() & (table["variants"] > 3)].reset_index(drop=True)
    answers = {True: "yes", False: "no"}
    table["as_expected"] = [answers.get(value, "") for value in table["as_expected"]]
    shown = table.drop(columns="dataset").rename(
        columns={"spearman": "rho", "by_family": "rho of families", "p_adjusted": "p, adjusted",
                 "better": "good", "as_expected": "as expected"}
    )  # fmt: skip
    shown.attrs = {
        "plain": ("rho", "low", "high", "rho of families", "p", "p, adjusted", "least", "most"),
        "caption": "Which diagnostic goes with mIoU over variants: Spearman's correlation, with a "
        "95 % interval that resamples families of variants and photos; the same over the means of "
        "families, with p by permuting these, and p adjusted over all measures; range with one "
        "family left out. good: the direction that a good variant should have. Controls and "
        "measures of the outcome are left out",
    }
    return shown


def _claims(evidence: Evidence) -> list[Claim]:
    rows, claims = _by_measure(correlations(evidence)), []
    for measure, side in CLAIMED.items():
        text = f"Variants with {side}er {measure.replace('_', ' ')} score higher"
        if measure not in rows:
            claims.append(missing(text, "not measured on four variants"))
            continue
        row = rows[measure]
        facts = (
            f"Spearman {_with_interval(row)} over {row['variants']} variants of {row['families']} "
            f"families and {row['photos']} photos; "
            f"{row['least']:+.2f} to {row['most']:+.2f} with one family left out; "
            f"{row['rho of families']:+.2f} over families, adjusted for {len(rows)} measures"
        )
        cells = list(evidence.cells.index)
        key = ("relation", measure, *sorted(map(evidence.comparisons.counts, cells)))
        test = Comparison.of(key, row["p, adjusted"], (row["rho"] > 0) == (side == "high"))
        claim = gated(evidence, Claim(text, facts, (test,)), cells)
        reason = ""
        if row["photos"] < FEWEST_PHOTOS:
            reason = few_photos(row["photos"], whole(evidence, cells[0]))
        elif row["families"] < FEWEST:
            reason = f"{row['families']} families of variants; a verdict needs {FEWEST}"
        claims.append(replace(claim, no_verdict=claim.no_verdict or reason))
    return claims


def _by_measure(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    records = ({str(k): v for k, v in row.items()} for row in table.to_dict("records"))
    return {row["measure"]: row for row in records}


def _with_interval(row: Mapping[str, Any]) -> str:
    """A correlation in words, with its interval where there is one."""
    text = f"{row['rho']:+.2f}"
    return text if np.isnan(row["low"]) else f"{text} [{row['low']:+.2f}, {row['high']:+.2f}]"


def _scatter(ax: Axes, evidence: Evidence, measure: str) -> None:
    """Draw the score against a measure's mean over photos, a point for each variant."""
    means = evidence.values(measure).mean()
    specs = [spec for spec in evidence.cells.index if spec in means]
    x, y = means[specs].to_list(), [100 * evidence.score(spec) for spec in specs]
    ax.plot(x, y, "o", color=COLORS[0], markersize=3.5)
    control = MEASURES[measure].control
    chance = evidence.values(control).mean().mean() if control else np.nan
    if not np.isnan(chance):
        ax.axvline(chance, color="0.6", ls=":", lw=1)
        ax.annotate("control", (chance, 1), (2, -6), ("data", "axes fraction"),
                    "offset points", fontsize=5, color="0.4")  # fmt: skip
    ax.margins(0.2, 0.12)
    ax.set_xlim(ax.get_xlim())
    ax.set_ylim(ax.get_ylim())
    label_points(ax, x, y, [evidence.name(spec) for spec in specs])


def _scatters(evidence: Evidence, table: pd.DataFrame) -> dict[str, Figure]:
    rows_of = _by_measure(table)
    names, figures = list(rows_of), []
    for start in range(0, len(names), PAGE):
        page = names[start : start + PAGE]
        columns = min(3, len(page))
        size = (0.6 + 2.9 * columns, 0.3 + 2.7 * -(-len(page) // columns))
        apart = ConstrainedLayoutEngine(h_pad=0.12)  # inches: titles keep off the axis above
        with charts(size, len(page), columns, sharey=True, layout=apart) as (figure, axes):
            for ax, measure in zip(axes, page, strict=True):
                _scatter(ax, evidence, measure)
                row, good = rows_of[measure], GOOD.get(MEASURES[measure].better)
                ax.set_xlabel(measure.replace("_", " ") + (f" ({good})" if good else ""))
                ax.set_title(f"Spearman {_with_interval(row)}")
            for ax in axes[::columns]:
                ax.set_ylabel("mIoU x100")
        figure.set_label(
            "each point is a variant; Spearman's correlation with its interval over families of "
            "variants and photos, the closest relations first"
        )
        figures.append(figure)
    return paged("covariance", figures)


def _heat_maps(evidence: Evidence) -> Figure | None:
    """Heat maps of `MAPPED` measures by layer and head, for vanilla attention and for CSA."""
    pair = dict(zip(("vanilla", "csa"), specs(evidence, "vanilla", "csa"), strict=True))
    if not len(evidence.layers) or None in pair.values():
        return None
    rows = evidence.layers[evidence.layers["head"] >= 0].astype({"spec": str, "measure": str})
    measures = [name for name in MAPPED if name in set(rows["measure"])]
    if not measures:
        return None
    tables = {}
    for measure, (name, spec) in product(measures, pair.items()):
        of_map = rows[(rows["measure"] == measure) & (rows["spec"] == spec)]
        tables[measure, name] = of_map.pivot_table(index="layer", columns="head", values="value")
    depth, heads = (max(table.shape[axis] for table in tables.values()) for axis in (0, 1))
    size = (1.0 + 2 * max(1.4, 0.24 * heads), 0.5 + len(measures) * max(1.2, 0.2 * depth + 0.5))
    with charts(size, 2 * len(measures), 2) as (figure, axes):
        for ax, (measure, name) in zip(axes, product(measures, pair), strict=True):
            table, is_right = tables[measure, name], name == "csa"
            both = np.concatenate([tables[measure, one].to_numpy().ravel() for one in pair])
            sns.heatmap(table, ax=ax, vmin=np.nanmin(both), vmax=np.nanmax(both), cmap="viridis",
                        cbar=is_right, cbar_kws={"label": measure.replace("_", " ")})  # fmt: skip
            places, blocks = np.arange(len(table)) + 0.5, [str(i + 1) for i in table.index]
            ax.set_yticks(places, blocks, rotation=0)
            ax.set_xticks([])
            ax.set(xlabel=f"{table.shape[1]} heads", ylabel="" if is_right else "block", title=name)
    figure.set_label("by block and head; CSA rewrites the last block alone, the others are the "
                     "network's own")  # fmt: skip
    return figure


def _figures(evidence: Evidence) -> dict[str, Figure]:
    table = correlations(evidence)
    figures = _scatters(evidence, table) if len(table) else {}
    heads = _heat_maps(evidence)
    return figures | ({"covariance_layers": heads} if heads is not None else {})


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    table = correlations(evidence)
    return {"covariance": table} if len(table) else {}


STUDY = Study(
    question="Which diagnostic of attention and features goes with the score of a variant, and in "
    "which layers and heads does CSA change it?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    order=6,
)

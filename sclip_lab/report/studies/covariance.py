"""Which diagnostic predicts the score."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from sclip_lab.report.figure import Figure
from sclip_lab.report.figures import COLORS, style
from sclip_lab.report.found import Found
from sclip_lab.report.studies import Study
from sclip_lab.report.verdicts import FAILS, HOLDS, OPEN, Verdict

RESAMPLES = 500
CONTROLS = ("inter_class_share", "same_class_share")  # properties of photos, not of variants
# The direction that SCLIP's argument says is good.
GOOD = {"spatial_invariance": -1, "inter_class_mass": -1, "attention_same_class_auroc": 1,
        "feature_same_class_auroc": 1}  # fmt: skip


def _values(found: Found) -> dict[str, pd.DataFrame]:
    """Measure -> (photos, specs) values, on photos where every spec has one."""
    measured = found.measured
    if not len(measured):
        return {}
    wide = {}
    for measure, rows in measured.groupby("measure", sort=False):
        grid = rows.assign(spec=rows["spec"].astype(str)).pivot_table(
            index="image", columns="spec", values="value", observed=True
        )
        grid = grid[[spec for spec in found.cells.index if spec in grid]]
        grid = grid.dropna(axis=1, thresh=max(1, len(grid) // 2)).dropna()
        if str(measure) not in CONTROLS and grid.shape[1] > 3 and len(grid) > 1:
            wide[str(measure)] = grid
    return wide


def correlations(found: Found) -> pd.DataFrame:
    """Spearman correlation of each diagnostic with mIoU over variants.

    Intervals: the photos of the diagnostic are resampled; variants and their scores stay.

    Returns:
        measure, rho, low, high, variants, photos; strongest first.
    """
    rows = []
    for measure, grid in _values(found).items():
        scores = found.cells.loc[grid.columns, "miou"].to_numpy(float)
        draw = np.random.default_rng(0)
        values = grid.to_numpy()
        resampled = []
        for _ in range(RESAMPLES):
            mean = values[draw.integers(len(values), size=len(values))].mean(0)
            resampled.append(spearmanr(mean, scores).statistic)
        low, high = np.quantile(resampled, [0.025, 0.975])
        rho = float(spearmanr(values.mean(0), scores).statistic)
        rows.append(
            {"measure": measure, "rho": rho, "low": float(low), "high": float(high)}
            | {"variants": grid.shape[1], "photos": len(grid)}
        )
    columns = ["measure", "rho", "low", "high", "variants", "photos"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.sort_values("rho", key=lambda rho: -rho.abs(), ignore_index=True)
    table.attrs = {
        "plain": ("rho", "low", "high"),
        "caption": "Spearman correlation of a diagnostic with mIoU over variants; its interval "
        "resamples the photos on which it was measured",
    }
    return table


def _verdicts(found: Found) -> list[Verdict]:
    judged = []
    for _, row in correlations(found).iterrows():
        sign = GOOD.get(str(row["measure"]))
        if sign is None:
            continue
        name = str(row["measure"]).replace("_", " ")
        claim = f"Variants with {'higher' if sign > 0 else 'lower'} {name} score higher"
        sure = row["low"] * row["high"] > 0
        answer = OPEN if not sure else HOLDS if row["rho"] * sign > 0 else FAILS
        why = (
            f"Spearman {row['rho']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] over "
            f"{row['variants']} variants, {row['photos']} photos"
        )
        judged.append(Verdict(claim, answer, why))
    return judged


def _figures(found: Found) -> dict[str, Figure]:
    values, table = _values(found), correlations(found).set_index("measure")
    if not values:
        return {}
    columns = min(3, len(values))
    rows = -(-len(values) // columns)
    with style():
        size = (0.6 + 2.6 * columns, 0.4 + 2.4 * rows)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for ax, (measure, grid) in zip(axes, values.items(), strict=False):
            means = grid.mean()
            for spec, mean in means.items():
                score = 100 * found.score(str(spec))
                ax.plot(mean, score, "o", color=COLORS[0], markersize=4)
                ax.annotate(found.name(str(spec)), (mean, score), fontsize=4.5, xytext=(2, 2),
                            textcoords="offset points")  # fmt: skip
            sign = GOOD.get(measure)
            good = "" if sign is None else " (right is good)" if sign > 0 else " (left is good)"
            ax.set_xlabel(measure.replace("_", " ") + good)
            row = table.loc[measure]
            ax.set_title(f"Spearman {row['rho']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]")
        for ax in axes[::columns]:
            ax.set_ylabel("mIoU x100")
        for ax in axes[len(values) :]:
            ax.set_axis_off()
    return {"covariance": figure}


def _tables(found: Found) -> dict[str, pd.DataFrame]:
    table = correlations(found)
    return {"covariance": table} if len(table) else {}


STUDY = Study(
    question="Which diagnostic of attention and features predicts the score of a variant?",
    verdicts=_verdicts,
    figures=_figures,
    tables=_tables,
    order=6,
)

"""Charts of diagnostics: the value of every measure for each variant."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sclip_lab.diagnostics import MEASURES
from sclip_lab.report.figures import COLORS, TALL, Figure, charts
from sclip_lab.results.statistics.intervals import mean_interval
from sclip_lab.results.store.spec_labels import labels

ROW_SUM = "not between row sums"
GOOD = {"high": "right is good", "low": "left is good"}
ZERO = 1e-3  # share of the longest bar below which a bar cannot be seen
COLUMNS = 3  # charts side by side
ROW, BAR = 0.85, 0.17  # inches: height of a row of charts without bars, and of one bar


def diagnostics(df: pd.DataFrame) -> Figure:
    """Mean of every measure per variant with a 95 % interval, and one dot per image.

    The axis says which direction is good, where that is known. A measure that is another's control
    has no chart of its own: its mean is the dotted line in the other's chart.

    Args:
        df: from `results.diagnostics`: spec, attention, image, measure, value.
    """
    return _drawn(_with_charts(df), _variants(df))


def _drawn(df: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    groups = [rows for name, rows in df.groupby("chart", sort=False) if name]
    lines, columns = -(-len(groups) // COLUMNS), min(COLUMNS, len(groups))
    size = (1.3 + 2.4 * columns, lines * (ROW + BAR * len(names)))
    with charts(size, len(groups), columns, sharey=True) as (figure, axes):
        for ax, rows in zip(axes, groups, strict=True):
            _chart(ax, rows, list(names))
            _control(ax, df, rows)
        axes[0].set_yticks(range(len(names)), names.values())
    seen = df.groupby("variant")["image"].nunique()
    photos = " to ".join(str(count) for count in sorted({seen.min(), seen.max()}))
    text = f"diagnostics: mean over {photos} photos with a 95 % interval; dots: single photos"
    figure.set_label(text + _undefined(df))
    return figure


def _undefined(df: pd.DataFrame) -> str:
    """How often each measure of ``df`` is undefined, and where, in words; "" if none ever is."""
    counts = df.attrs.get("undefined", {})
    notes = []
    for measure in df["measure"].astype(str).unique():
        if counts.get(measure):
            where = MEASURES[measure].undefined if measure in MEASURES else ""
            name = measure.replace("_", " ")
            notes.append(f"{name} {counts[measure]} times" + (f" ({where})" if where else ""))
    return f"; left out where not defined: {', '.join(notes)}" if notes else ""


def pages(df: pd.DataFrame, variants: int = 20) -> list[Figure]:
    """`diagnostics` as several figures, each of which fits on a screen.

    Args:
        df: from `results.diagnostics`. variants: at most so many in one figure.
    """
    names = list(_variants(df).items())
    df = _with_charts(df)
    pages, shown = [], [name for name in df["chart"].unique() if name]
    for start in range(0, len(names), variants):
        page = dict(names[start : start + variants])
        several = COLUMNS * max(1, int(TALL / (ROW + BAR * len(page))))
        for first in range(0, len(shown), several):
            here = df["chart"].isin(["", *shown[first : first + several]])
            rows = df[df["variant"].isin(page) & here]
            if rows["chart"].any():
                pages.append(_drawn(rows, page))
    return pages


def _with_charts(df: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``variant`` (the spec) and ``chart``, the title of the row's chart: the
    measure, and the data set where there are several. ``chart`` is "" for a measure that is the
    control of another one in ``df``."""
    measure = df["measure"].astype(str)
    controls = {MEASURES[name].control for name in measure.unique() if name in MEASURES}
    title = measure.str.replace("_", " ")
    if "dataset" in df and df["dataset"].nunique() > 1:
        title = title + ", " + df["dataset"].astype(str)
    return df.assign(variant=df["spec"].astype(str), chart=title.where(~measure.isin(controls), ""))


def _chart(ax: Axes, rows: pd.DataFrame, order: list[str]) -> None:
    by_variant = dict(list(rows.groupby("variant")["value"]))
    values = {name: by_variant[name].to_numpy() for name in order if name in by_variant}
    places = np.array([order.index(name) for name in values])
    means = np.array([one.mean() for one in values.values()])
    measure = MEASURES.get(str(rows["measure"].iloc[0]))
    bounds = (measure.low, measure.high) if measure else (None, None)
    ends = np.array([mean_interval(one, bounds=bounds) for one in values.values()]).T
    ax.barh(places, means, 0.7, color=COLORS[5])
    ax.hlines(places, *ends, color="black", linewidth=0.9)
    jitter = np.random.default_rng(0)  # the same store gives the same picture
    for place, one in zip(places, values.values(), strict=True):
        heights = place + jitter.uniform(-0.25, 0.25, len(one))
        ax.plot(one, heights, "o", markersize=1.6, color="0.25", alpha=0.5, markeredgewidth=0)
    ax.set_ylim(len(order) - 0.5, -0.5)
    longest = rows["value"].abs().max()
    for place, one in zip(places, values.values(), strict=True):
        if np.abs(one).max() <= ZERO * longest:  # a bar of no length looks like a missing one
            ax.text(0, place, " 0", va="center", fontsize=6)
    notes = [GOOD.get(measure.better, ""), ROW_SUM if measure.of_row_sum else ""] if measure else []
    ax.set(xlabel="; ".join(filter(None, notes)), ylabel="")
    ax.set_title("\n".join(wrap(str(rows["chart"].iloc[0]), 28)))


def _control(ax: Axes, df: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Draw the mean of a measure's control as a dotted line, where the control was measured."""
    measure = MEASURES.get(str(rows["measure"].iloc[0]))
    if measure is None or measure.control is None:
        return
    same = df["measure"] == measure.control
    if "dataset" in df:
        same &= df["dataset"].astype(str) == str(rows["dataset"].iloc[0])
    if same.any():
        ax.axvline(df.loc[same, "value"].mean(), color="black", ls=":", lw=1)
        ax.set_xlabel(" · ".join(filter(None, [ax.get_xlabel(), "dotted: control"])))


def _variants(df: pd.DataFrame) -> dict[str, str]:
    """Map each spec to a unique name, in order. (Several specs may have the same label.)"""
    table = df.drop_duplicates("spec")
    return dict(zip(table["spec"].astype(str), labels(table), strict=True))

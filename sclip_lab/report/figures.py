"""Charts of a results DataFrame: DataFrame in, matplotlib Figure out, nothing read or written.

Scores are drawn x100. Colours are Okabe and Ito's, told apart with any colour vision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes

from sclip_lab import results
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.report.figure import Figure
from sclip_lab.report.pictures import PLAIN, attention_maps, panel
from sclip_lab.report.swept_labels import labels, without
from sclip_lab.results.table.support import FEW

__all__ = ["attention_maps", "bars", "curve", "panel", "per_class", "swept"]

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_OWN = {"vanilla": 0, "maskclip": 1, "csa": 2}  # one colour each in all charts
STYLE = {
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "font.size": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
TALL = 9.0  # inches: about what a screen shows
_STRIP = 40  # classes side by side in `per_class`
_ROWS = 40  # variants below each other in one picture
_CHARTS = 3  # charts of bars side by side


def color(name: str, index: int) -> str:
    """The colour of a line or bar: the paper's variants have their own, others the index-th."""
    return COLORS[_OWN.get(name.lower(), index) % len(COLORS)]


@contextmanager
def style() -> Iterator[None]:
    """Fonts and axes of all charts."""
    ticks, paper = sns.axes_style("ticks"), sns.plotting_context("paper", rc=STYLE)
    with ticks, paper, rc_context(PLAIN):
        yield


def bars(
    df: pd.DataFrame,
    sort: bool = False,
    n: int = 2000,
    level: float = 0.95,
    table: pd.DataFrame | None = None,
) -> Figure:
    """mIoU of every spec with its bootstrap interval, one chart per data set.

    Args:
        df: from `results.load`.
        sort: best first instead of in the order of the DataFrame.
        n: bootstrap resamples. level: of the interval.
        table: the `results.summary` of ``df`` if there is one already.
    """
    table = results.summary(df, n, level) if table is None else table
    return _bar_charts(list(_by_dataset(table, sort).items()), level)


def bar_pages(table: pd.DataFrame) -> list[Figure]:
    """`bars` of a `results.summary`, as many variants in a picture as a screen can show."""
    groups, level = _by_dataset(table), float(table.attrs.get("level", 0.95))
    longest = max(len(rows) for rows in groups.values())
    found = []
    for start in range(0, longest, _ROWS):
        page = [(name, rows.iloc[start : start + _ROWS]) for name, rows in groups.items()]
        found.append(_bar_charts([(name, rows) for name, rows in page if len(rows)], level))
    return found


def _by_dataset(table: pd.DataFrame, sort: bool = False) -> dict[str, pd.DataFrame]:
    """The rows of each data set with names that are unique there."""
    found = {}
    for dataset, rows in table.groupby("dataset", observed=True, sort=False):
        rows = rows.assign(name=labels(rows))
        found[str(dataset)] = rows.sort_values("miou", ascending=False) if sort else rows
    return found


def _bar_charts(groups: list[tuple[str, pd.DataFrame]], level: float) -> Figure:
    columns = min(_CHARTS, len(groups))
    lines = [groups[start : start + columns] for start in range(0, len(groups), columns)]
    heights = [0.9 + 0.22 * max(len(rows) for _, rows in line) for line in lines]
    with style():
        size = (1.2 + 4.2 * columns, sum(heights))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights).ravel()
        for ax, (dataset, rows) in zip(axes, groups, strict=False):
            _bars(ax, rows)
            ax.set_title(f"{dataset}, {rows['images'].iloc[0]} images")
            ax.set_xlabel(f"mIoU x100, {level * 100:g} % interval")
        for ax in axes[len(groups) :]:
            ax.set_axis_off()
        figure.set_label(f"mIoU x100 with its {level * 100:g} % interval over photos")
    return figure


def _bars(ax: Axes, table: pd.DataFrame) -> None:
    scaled = table[["miou", "low", "high"]] * 100
    names = list(table["name"])
    ax.barh(range(len(names)), scaled["miou"], height=0.7, color=COLORS[5])
    ax.set_yticks(range(len(names)), names)
    low, high = scaled["low"].to_numpy(), scaled["high"].to_numpy()
    ax.errorbar(
        (low + high) / 2,
        range(len(names)),
        xerr=(high - low) / 2,
        fmt="none",
        ecolor="black",
        elinewidth=0.8,
        capsize=2,
    )
    ends = np.fmax(high, scaled["miou"].to_numpy())
    top = float(np.nanmax(ends))
    for position, (score, end) in enumerate(zip(scaled["miou"], ends, strict=True)):
        ax.text(end + 0.015 * top, position, f"{score:.1f}", va="center", fontsize=7)
    ax.set_xlim(0, 1.12 * top if top > 0 else 1)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_ylabel("")
    sns.despine(ax=ax)


def per_class(df: pd.DataFrame, summary: pd.DataFrame | None = None) -> Figure:
    """Heatmap of IoU x100, variants by classes, in strips of at most 40 classes.

    Behind each class stands on how many photos it is. Classes without a pixel in the truth are
    left out: their IoU is 0 or nothing. The cells of up to 25 classes hold their numbers.

    Args:
        df: from `results.load`. summary: its `results.summary` if there is one already.
    """
    strips = _strips(df, results.summary(df, n=1) if summary is None else summary)
    return _heat_maps(strips, _top(strips))


def per_class_pages(df: pd.DataFrame, summary: pd.DataFrame) -> list[Figure]:
    """`per_class` in pictures that a screen can show."""
    pages: list[list[tuple[str, pd.DataFrame]]] = []
    room, strips = 0.0, _strips(df, summary)
    for dataset, strip in strips:
        for start in range(0, len(strip), _ROWS):
            part = dataset, strip.iloc[start : start + _ROWS]
            room -= _height(part[1])
            if room < 0:
                pages.append([])
                room = TALL - _height(part[1])
            pages[-1].append(part)
    top = _top(strips)
    return [_heat_maps(page, top) for page in pages]


def _strips(df: pd.DataFrame, summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Data set, and IoU x100 of its variants by at most so many of its classes."""
    scores, seen = results.iou(df).astype({"spec": str}), results.support(df)
    strips: list[tuple[str, pd.DataFrame]] = []
    for dataset, table in summary.groupby("dataset", observed=True, sort=False):
        rows = dict(zip(table["spec"].astype(str), labels(table), strict=True))
        met = df["true"][(df["dataset"] == dataset) & (df["pixels"] > 0)].unique()
        mine = scores[scores["spec"].isin(rows) & scores["id"].isin(met)]
        grid = mine.pivot(index="spec", columns="id", values="iou").loc[list(rows)] * 100
        grid.index = list(rows.values())
        names = mine.drop_duplicates("id").set_index("id")["class"].loc[grid.columns]
        here = seen[seen["dataset"] == dataset]
        photos = dict(zip(here["id"], here["photos"], strict=True))
        grid.columns = [
            f"{name} {'*' if photos[index] < FEW else ''}{photos[index]}"
            for index, name in zip(grid.columns, names, strict=True)
        ]
        cuts = np.array_split(np.arange(grid.shape[1]), -(-grid.shape[1] // _STRIP))
        strips += [(str(dataset), grid.iloc[:, cut]) for cut in cuts]
    return strips


def _height(strip: pd.DataFrame) -> float:
    return 1.35 + 0.17 * len(strip)


def _top(strips: list[tuple[str, pd.DataFrame]]) -> float:
    return max(float(np.nanmax(grid.to_numpy())) for _, grid in strips)


def _heat_maps(strips: list[tuple[str, pd.DataFrame]], top: float) -> Figure:
    height = sum(_height(grid) for _, grid in strips)
    widest = max(grid.shape[1] for _, grid in strips)
    with style():
        figure = Figure(figsize=(2.4 + 0.21 * max(widest, 12), height), layout="constrained")
        ratios = [len(grid) + 4.0 for _, grid in strips]
        axes = figure.subplots(len(strips), 1, squeeze=False, height_ratios=ratios)[:, 0]
        shown = ""
        for ax, (dataset, grid) in zip(axes, strips, strict=True):
            sns.heatmap(
                grid,
                ax=ax,
                vmin=0,
                vmax=top,
                cmap="viridis",
                cbar=False,
                annot=grid.shape[1] <= 25,
                fmt=".0f",
                annot_kws={"fontsize": 6},
                xticklabels=True,
                yticklabels=True,
            )
            ax.set(xlabel="", ylabel="", title="" if dataset == shown else dataset)
            shown = dataset
            ax.tick_params(length=0)
            ax.tick_params(axis="x", rotation=90)
            ax.tick_params(axis="y", rotation=0)
        figure.set_label(f"IoU by class; behind each class its photos, * where below {FEW}")
        figure.colorbar(
            axes[0].collections[0],
            ax=list(axes),
            label="IoU x100",
            aspect=20,
            fraction=0.03,
            pad=0.01,
            shrink=min(1.0, 2.5 / height),
            anchor=(0.0, 1.0),
        )
    return figure


def swept(df: pd.DataFrame) -> list[str]:
    """The parameters with values in an order of which some variant has several, all else equal."""
    table = df.drop_duplicates("spec")
    names = [str(c) for c in table if "." in str(c) and not str(c).endswith("seed")]
    return [name for name in names if _lines(table, name)]


def _number(value: object) -> float:
    """A parameter's place on an axis: numbers, fractions of depth ("3/12"), "last 2"; else NaN."""
    try:
        return float(Fraction(str(value).removeprefix("last ")))
    except (ValueError, ZeroDivisionError):
        return float("nan")


def _lines(table: pd.DataFrame, x: str) -> list[pd.DataFrame]:
    """The rows of ``table`` that differ in ``x`` alone, at least two values of it each.

    Column "place" is the value's place on the axis, "line" the variant without this parameter.
    """
    group, _, parameter = x.partition(".")
    names = [name for name in ("backbone", "dataset", "protocol") if name != group]
    table = table.assign(place=[_number(value) for value in table[x]])
    if table["place"].nunique() < 2:
        return []
    others = [c for c in table if "." in str(c) and c != x and table[c].nunique(dropna=False) > 1]
    table["line"] = [without(str(label), parameter) for label in table["attention"]]
    table = table.dropna(subset="place")
    keys = ["line", *names, *others]
    lines = [rows for _, rows in table.groupby(keys, observed=True, sort=False, dropna=False)]
    return [rows.sort_values("place") for rows in lines if rows["place"].nunique() > 1]


def curve(
    df: pd.DataFrame,
    x: str = "attention.temperature",
    log: bool = False,
    n: int = 2000,
    level: float = 0.95,
    table: pd.DataFrame | None = None,
) -> Figure:
    """mIoU against one parameter, with the interval as a band; one line per variant and setting.

    Args:
        df: from `results.load`.
        x: a column such as "attention.temperature" or "protocol.short_side"; fractions of depth
            ("3/12") and "last 2" count as numbers.
        log: logarithmic x axis.
        table: the `results.summary` of ``df`` if there is one already.

    Raises:
        LabError: if there is no such column, or no variant has two values of it.
    """
    if x not in df:
        raise unknown("swept parameter", x, swept(df))
    lines = _lines(results.summary(df, n, level) if table is None else table, x)
    if not lines:
        raise LabError(f"no variant was run with two values of {x} and all else equal")
    firsts = pd.concat([line.iloc[:1] for line in lines])
    varying = ["line", *(c for c in ("backbone", "dataset", "protocol") if firsts[c].nunique() > 1)]
    ticks = {row["place"]: row[x] for line in lines for _, row in line.iterrows()}
    with style():
        figure = Figure(figsize=(3.5, 2.6), layout="constrained")
        ax = figure.subplots()
        for index, line in enumerate(lines):
            color, places = COLORS[index % len(COLORS)], line["place"]
            name = " · ".join(str(line.iloc[0][c]) for c in varying)
            ax.fill_between(places, line["low"] * 100, line["high"] * 100, color=color, alpha=0.2)
            ax.plot(places, line["miou"] * 100, "o-", color=color, markersize=3.5, label=name)
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
        if len(ticks) <= 8:
            texts = [f"{t:g}" if isinstance(t, int | float) else str(t) for t in ticks.values()]
            ax.set_xticks(list(ticks), texts)
            ax.minorticks_off()
        ax.set_xlabel(x.split(".", 1)[1].replace("_", " "))
        ax.set_ylabel(f"mIoU x100, {level * 100:g} % band")
        ax.legend(frameon=False)
        sns.despine(ax=ax)
    return figure

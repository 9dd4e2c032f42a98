"""Bars and heat maps of results: DataFrame in, matplotlib Figure out, nothing read or written.

Scores are drawn x100. Colours are Okabe and Ito's, told apart with any colour vision.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import matplotlib.figure
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes

from sclip_lab import results
from sclip_lab.report.evidence import Evidence
from sclip_lab.results.store.spec_labels import labels
from sclip_lab.results.table.support import FEW

Page = TypeVar("Page")
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_OWN = {"vanilla": 0, "maskclip": 1, "csa": 2}  # one colour of `COLORS` each, in all charts
# Names are drawn as they are: "$5" is no formula. Titles have a fixed place, for which matplotlib
# would search with each drawing.
PLAIN: Any = {"text.parse_math": False, "axes.titley": 1.0}
STYLE = {
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "font.size": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
FLOOR_DASHES = (":", "--", "-.")
TALL = 9.0  # inches: about what a screen shows
_STRIP = 40  # classes side by side in `per_class`
_ROWS = 40  # variants below each other in one picture
_CHARTS = 3  # charts of bars side by side


def color(name: str, index: int) -> str:
    """The colour of a line or bar: the paper's variants have their own, others the index-th."""
    return COLORS[_OWN.get(name.lower(), index) % len(COLORS)]


@contextmanager
def style() -> Iterator[None]:
    """Use the fonts and axes of all charts in the body of a ``with``."""
    ticks, paper = sns.axes_style("ticks"), sns.plotting_context("paper", rc=STYLE)
    with ticks, paper, rc_context(PLAIN):
        yield


@contextmanager
def charts(
    size: tuple[float, float], count: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with ``count`` charts, and the charts, for the body of a ``with``, in `style`.

    Args:
        size: width and height in inches. columns: charts side by side.
        **options: of ``Figure.subplots``, such as sharey; or its ``layout``.
    """
    with style():
        figure = Figure(figsize=size, layout=options.pop("layout", "constrained"))
        axes = figure.subplots(-(-count // columns), columns, squeeze=False, **options).ravel()
        for ax in axes[count:]:
            ax.set_axis_off()
        yield figure, list(axes[:count])
        for ax in axes[:count]:
            ax.spines[["top", "right"]].set_visible(False)


def interval_bars(ax: Axes, places: Sequence[float], table: pd.DataFrame, **looks: Any) -> Any:
    """Horizontal bars as long as the first column of a table, with an interval from its column low
    to its column high. Returns matplotlib's bars."""
    lengths = table.iloc[:, 0]
    error = np.maximum([lengths - table["low"], table["high"] - lengths], 0)
    thin = {"elinewidth": 0.8, "capsize": 2}
    return ax.barh(places, lengths, xerr=error, error_kw=thin, **looks)


def heat_map(ax: Axes, table: pd.DataFrame, **looks: Any) -> None:
    """Draw seaborn's heat map, with the name of every row and column."""
    sns.heatmap(table, ax=ax, xticklabels=True, yticklabels=True, annot_kws={"fontsize": 6},
                **looks)  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)


class Figure(matplotlib.figure.Figure):
    """matplotlib's figure, which Jupyter shows as a picture at the end of a notebook cell.

    By itself, Jupyter draws only figures that were made with pyplot, and this one was not.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110)
        return file.getvalue()


def paged(name: str, pages: Sequence[Page]) -> dict[str, Page]:
    """Name the pages of a figure as files: {name: page}, numbered if there are several."""
    if len(pages) == 1:
        return {name: pages[0]}
    return {f"{name}_{number}": page for number, page in enumerate(pages, start=1)}


def score_title(table: pd.DataFrame, interval: str) -> str:
    """The title of scores, which names their interval if a row of ``table`` has one."""
    return "mIoU x100" + interval * bool(table["low"].notna().any())


def draw_floors(ax: Axes, table: pd.DataFrame, across: bool = False) -> str:
    """Draw grey lines at the scores that need no network, if a table is of one data set.

    Args:
        table: a `results.summary`, or rows of it. across: horizontal lines, not vertical ones.

    Returns:
        what the lines are, in words; "" if none is drawn.
    """
    datasets = table["dataset"].astype(str).unique()
    floor_scores = table.attrs.get("floors", {}).get(datasets[0], {}) if len(datasets) == 1 else {}
    for (name, score), dashes in zip(floor_scores.items(), FLOOR_DASHES, strict=False):
        looks = {"color": "0.35", "lw": 0.8, "ls": dashes, "zorder": 1.5, "label": name}
        if across:
            ax.hlines(100 * score, 0, 1, transform=ax.get_yaxis_transform(), **looks)
        else:
            ax.vlines(100 * score, 0, 1, transform=ax.get_xaxis_transform(), **looks)
            ax.set_xlim(right=max(ax.get_xlim()[1], 105 * score))
    words = [f"{name} {100 * score:.1f}" for name, score in floor_scores.items()]
    return f"grey: {', '.join(words)}" if words else ""


def bars(df: pd.DataFrame, sort: bool = False, table: pd.DataFrame | None = None) -> Figure:
    """mIoU of every spec with its bootstrap interval, one chart per data set.

    Args:
        df: from `results.load`. table: its `results.summary` if there is one already.
        sort: best first instead of in the order of the DataFrame.
    """
    table = results.summary(df) if table is None else table
    return _bar_charts(_by_dataset(table, sort))


def bar_pages(table: pd.DataFrame) -> list[Figure]:
    """`bars` of a `results.summary` as several figures, each of which fits on a screen."""
    groups = _by_dataset(table)
    starts = range(0, max(map(len, groups.values())), _ROWS)
    return [
        _bar_charts(
            {name: rows.iloc[i : i + _ROWS] for name, rows in groups.items() if i < len(rows)}
        )
        for i in starts
    ]


def _by_dataset(table: pd.DataFrame, sort: bool = False) -> dict[str, pd.DataFrame]:
    """The rows of each data set with names that are unique there."""
    groups = {}
    for dataset, rows in table.groupby("dataset", observed=True, sort=False):
        rows = rows.assign(name=labels(rows))
        if sort:  # oracles are not ranked: they come last
            rows = rows.sort_values(["oracle", "miou"], ascending=[True, False])
        groups[str(dataset)] = rows
    return groups


def _bar_charts(groups: Mapping[str, pd.DataFrame]) -> Figure:
    columns, tables = min(_CHARTS, len(groups)), list(groups.values())
    lines = [tables[start : start + columns] for start in range(0, len(groups), columns)]
    heights = [0.9 + 0.22 * max(map(len, line)) for line in lines]
    size = (1.2 + 4.2 * columns, sum(heights))
    level = f"{100 * tables[0].attrs.get('level', 0.95):g} % interval"
    with charts(size, len(groups), columns, height_ratios=heights) as (figure, axes):
        for ax, (dataset, rows) in zip(axes, groups.items(), strict=True):
            _bars(ax, rows)
            photos, of = rows[["images", "of"]].iloc[0]
            count = f"{photos}" if photos == of else f"{photos} of {of}"
            ax.set_title(f"{dataset}, {count} photos")
            text = f"{score_title(rows, f', {level}')}\n{draw_floors(ax, rows)}".strip()
            ax.set_xlabel(text, loc="right", fontsize=6.5)  # there is room below the names
        figure.set_label(score_title(pd.concat(groups.values()), f" with its {level} over photos"))
    return figure


def _bars(ax: Axes, table: pd.DataFrame) -> None:
    scaled = table[["miou", "low", "high"]] * 100
    names = list(table["name"])
    patches = interval_bars(ax, range(len(names)), scaled, height=0.7, color=COLORS[5])
    for bar, is_oracle in zip(patches, table["oracle"], strict=True):
        if is_oracle:
            bar.set(facecolor="white", edgecolor=COLORS[5], hatch="////")
    ax.set_yticks(range(len(names)), names)
    ends = np.fmax(scaled["high"].to_numpy(), scaled["miou"].to_numpy())
    top = float(np.nanmax(ends))
    for position, (score, end) in enumerate(zip(scaled["miou"], ends, strict=True)):
        ax.text(end + 0.015 * top, position, f"{score:.1f}", va="center", fontsize=7)
    ax.set_xlim(0, 1.12 * top if top > 0 else 1)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_ylabel("")


def per_class(df: pd.DataFrame, summary: pd.DataFrame | None = None) -> Figure:
    """Heatmap of IoU x100, variants by classes, in strips of at most 40 classes.

    In brackets behind each class: how many photos have it, in grey where these are few. Classes
    without a pixel in the truth are left out: their IoU is 0 or not defined. Numbers are written
    into strips of up to 25 classes.

    Args:
        df: from `results.load`. summary: its `results.summary` if there is one already.
    """
    strips = _strips(df, results.summary(df, n=1) if summary is None else summary)
    return _heat_maps(strips, _top(strips))


def per_class_pages(df: pd.DataFrame, summary: pd.DataFrame) -> list[Figure]:
    """`per_class` as several figures, each of which fits on a screen."""
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
    """Strips: each a data set and IoU x100 of its variants by at most `_STRIP` of its classes."""
    scores, support = results.iou(df).astype({"spec": str}), results.support(df)
    strips: list[tuple[str, pd.DataFrame]] = []
    for dataset, table in summary.groupby("dataset", observed=True, sort=False):
        rows = dict(zip(table["spec"].astype(str), labels(table), strict=True))
        met = df["true"][(df["dataset"] == dataset) & (df["pixels"] > 0)].unique()
        scores_present = scores[scores["spec"].isin(rows) & scores["id"].isin(met)]
        grid = scores_present.pivot(index="spec", columns="id", values="iou").loc[list(rows)] * 100
        grid.index = list(rows.values())
        names = scores_present.drop_duplicates("id").set_index("id")["class"].loc[grid.columns]
        here = support[support["dataset"] == dataset]
        photos = dict(zip(here["id"], here["photos"], strict=True))
        grid.columns = [
            f"{name} ({photos[index]})" for index, name in zip(grid.columns, names, strict=True)
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
    size, ratios = (2.4 + 0.21 * max(widest, 12), height), [len(grid) + 4.0 for _, grid in strips]
    with charts(size, len(strips), height_ratios=ratios) as (figure, axes):
        shown = ""
        for ax, (dataset, grid) in zip(axes, strips, strict=True):
            heat_map(ax, grid, vmin=0, vmax=top, cmap="viridis", cbar=False,
                     annot=grid.shape[1] <= 25, fmt=".0f")  # fmt: skip
            ax.set_title("" if dataset == shown else dataset)
            shown = dataset
            for text in ax.get_xticklabels():
                few = int(text.get_text().rpartition("(")[2].rstrip(")")) < FEW
                text.set_color("0.5" if few else "black")
        figure.set_label(
            f"IoU x100 by class; in brackets: photos that have the class, grey below {FEW}, where "
            "a score is an anecdote"
        )
        figure.colorbar(
            axes[0].collections[0], ax=axes, label="IoU x100", aspect=20, fraction=0.03, pad=0.01,
            shrink=min(1.0, 2.5 / height), anchor=(0.0, 1.0),
        )  # fmt: skip
    return figure


def grouped(evidence: Evidence, grid: Mapping[str, Mapping[str, str]]) -> Figure:
    """Bars of mIoU x100 with 95 % intervals, in groups.

    Args:
        grid: group -> variant -> spec.
    """
    variants = list(dict.fromkeys(name for specs in grid.values() for name in specs))
    height, cells = 0.8 / len(variants), 100 * evidence.cells[["miou", "low", "high"]]
    size = (5.6, 0.9 + 0.16 * len(grid) * max(2, len(variants)))
    with charts(size) as (figure, [ax]):
        for index, variant in enumerate(variants):
            rows = {row: specs[variant] for row, specs in enumerate(grid.values())
                    if variant in specs}  # fmt: skip
            places = [row + (index - (len(variants) - 1) / 2) * height for row in rows]
            interval_bars(ax, places, cells.loc[list(rows.values())], height=height,
                          color=color(variant, index), label=variant)  # fmt: skip
        ax.set_yticks(range(len(grid)), list(grid))
        ax.invert_yaxis()
        ax.set_xlabel(score_title(cells, ", 95 % interval"))
        draw_floors(ax, evidence.summary)
        longest = max(map(len, ax.get_legend_handles_labels()[1]))  # floors are in the legend too
        columns = max(1, int(size[0] / (0.55 + 0.065 * longest)))
        figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure

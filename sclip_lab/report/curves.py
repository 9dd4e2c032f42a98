"""Scores of chosen cells against a parameter, with other cells as reference lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from sclip_lab.report.figure import Figure
from sclip_lab.report.figures import color, style
from sclip_lab.report.found import Found

DASHES = {"CSA": "--", "CSA (q + k)": "--", "vanilla": ":"}  # of reference lines, else "-."
Line = Mapping[float, str]  # place on the axis -> spec


def number(value: object) -> float:
    """A parameter's place on an axis: numbers, fractions of depth ("3/12"), "last 2"; else NaN."""
    try:
        return float(Fraction(str(value).removeprefix("last ")))
    except (ValueError, ZeroDivisionError):
        return float("nan")


def line(found: Found, parameter: str, **fixed: object) -> dict[float, str]:
    """Specs by their value of one configuration key, in the order of the values.

    Args:
        found: the cells. parameter: a key such as "attention.temperature".
        **fixed: variant, or configuration keys with "__" for dots, and the value that is wanted.
    """
    table = pick(found, **fixed)
    known = table.get(parameter, pd.Series(dtype=object))  # no cell has such a parameter
    places = {spec: number(value) for spec, value in known.items()}
    ordered = sorted((place, str(spec)) for spec, place in places.items() if place == place)
    return dict(ordered)


def pick(found: Found, **fixed: object) -> pd.DataFrame:
    """The rows of ``found.cells`` with these values; keys as in `line`."""
    table = found.cells
    for key, value in fixed.items():
        column = key.replace("__", ".")
        if column not in table:
            return table.iloc[:0]
        table = table[[_same(cell, value) for cell in table[column]]]
    return table


def _same(cell: object, value: object) -> bool:
    if isinstance(value, tuple):
        return any(_same(cell, one) for one in value)
    return cell == value


def spec(found: Found, **fixed: object) -> str | None:
    """The one spec with these values, or the first of several; None where there is none."""
    table = pick(found, **fixed)
    return str(table.index[0]) if len(table) else None


def plot(
    ax: Axes,
    found: Found,
    lines: Mapping[str, Line],
    references: Mapping[str, str | None] | None = None,
    spread: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> None:
    """Draw mIoU x100 with its interval as a band, one line per name.

    Args:
        ax: where. found: the cells.
        lines: spec by place, by name. references: specs drawn as horizontal lines, by name.
        spread: further specs (such as other seeds) at each place of a line, drawn as dots.
    """
    cells = found.cells
    for index, (name, places) in enumerate(lines.items()):
        table = cells.loc[list(places.values())]
        x, shade = list(places), color(name, index)
        ax.fill_between(x, table["low"] * 100, table["high"] * 100, color=shade, alpha=0.15, lw=0)
        ax.plot(x, table["miou"] * 100, "o-", color=shade, markersize=3.5, label=name)
        for place, others in zip(places, (spread or {}).get(name, ()), strict=False):
            scores = cells.loc[list(others), "miou"] * 100
            ax.plot([place] * len(scores), scores, "_", color=shade, markersize=6)
    for name, key in (references or {}).items():
        if key is not None:
            dashes = DASHES.get(name, "-.")
            ax.axhline(100 * found.score(key), color="0.15", lw=1, ls=dashes, label=name)
    ax.set_ylabel("mIoU x100, 95 % band")
    sns.despine(ax=ax)


def curves(
    found: Found,
    panels: Mapping[str, Mapping[str, Line]],
    references: Mapping[str, str | None] | None = None,
    log: Sequence[str] = (),
    ticks: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """One chart per parameter, side by side with one scale.

    Args:
        found: the cells.
        panels: lines (see `plot`) by the axis' title.
        references: horizontal lines in every chart. log: titles with a logarithmic axis.
        ticks: places of ticks by title; by default those of the lines.
    """
    with style():
        columns = 2 if len(panels) == 4 else min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(0.8 + 2.9 * columns, 0.7 + 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for ax, (title, lines) in zip(axes, panels.items(), strict=False):
            plot(ax, found, lines, references)
            ax.set_xlabel(title)
            places = sorted({place for line in lines.values() for place in line})
            if title in log:
                ax.set_xscale("log", base=2)
                ax.xaxis.set_major_formatter("{x:g}")
            shown = (ticks or {}).get(title, places)
            if len(shown) <= 8:
                ax.set_xticks(list(shown), [f"{value:.3g}" for value in shown])
                ax.minorticks_off()
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax in axes:
            ax.yaxis.set_tick_params(labelleft=True)
        _legend(figure, axes[: len(panels)])
    return figure


def _legend(figure: Figure, axes: np.ndarray) -> None:
    """One legend below all charts, each name once."""
    handles: dict[str, Any] = {}
    for ax in axes:
        found = list(zip(*ax.get_legend_handles_labels(), strict=True))
        alone = sum(handle.get_linestyle() == "-" for handle, _ in found) == 1 and len(axes) > 1
        for handle, label in found:
            if not (alone and handle.get_linestyle() == "-"):  # its axis says what it is
                handles.setdefault(label, handle)
    columns = max(1, int(figure.get_size_inches()[0] / 1.6))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns,
        frameon=False,
    )  # fmt: skip

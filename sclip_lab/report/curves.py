"""Scores against a parameter, and names beside points."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure, charts, color, draw_floors, score_title

SIDE = 2.2  # inches: width and height of a chart whose points have names
FONT = 4.5  # points: size of the letters of points' names
STEPS = 14  # places to try above and below a point for its name
# Dashes of reference lines by name; all others have "-.".
DASHES: dict[str, Any] = {
    "CSA": "--",
    "CSA (q + k)": "--",
    "vanilla": ":",
    "oracle: uniform over the class": (0, (9, 2)),
    "blind Gaussian": (0, (5, 1, 1, 1, 1, 1)),
}
Line = Mapping[float, str]  # place on the axis -> spec
LAST = {str([*range(-count, 0)]): f"last {count}" for count in range(1, 100)}  # layers in words


def number(value: object) -> float:
    """A parameter's place on an axis: numbers, fractions of depth ("3/12"), "last 2" in words or as
    [-2, -1]; else NaN."""
    try:
        return float(Fraction(LAST.get(str(value), str(value)).removeprefix("last ")))
    except (ValueError, ZeroDivisionError):
        return float("nan")


def line(
    evidence: Evidence, parameter: str, ends: Mapping[float, str] | None = None, **fixed: object
) -> dict[float, str]:
    """Specs by their value of one configuration key, in the order of the values.

    Args:
        parameter: a key such as "attention.temperature".
        ends: place -> a variant that lies there under another name: vanilla at temperature 1.
        **fixed: values to select (a tuple: any of them) by ``variant`` or by configuration key,
            with "__" for dots.
    """
    table = pick(evidence, **fixed)
    values = table.get(parameter, pd.Series(dtype=object))  # empty where no cell has the parameter
    places = {key: number(value) for key, value in values.items()}
    line = {place: str(key) for key, place in places.items() if place == place}
    others = {place: spec(evidence, variant=name) for place, name in (ends or {}).items()}
    line |= {place: key for place, key in others.items() if key}
    return dict(sorted(line.items()))


def pick(evidence: Evidence, **fixed: object) -> pd.DataFrame:
    """The rows of ``evidence.cells`` with these values; keys as in `line`."""
    table = evidence.cells
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


def spec(evidence: Evidence, **fixed: object) -> str | None:
    """The one spec with these values, or the first of several; None where there is none."""
    table = pick(evidence, **fixed)
    return str(table.index[0]) if len(table) else None


def specs(evidence: Evidence, *variants: str) -> tuple[str | None, ...]:
    """`spec` of each of ``variants``."""
    return tuple(spec(evidence, variant=variant) for variant in variants)


def pair(evidence: Evidence) -> tuple[str, str] | None:
    """`spec` of CSA and of vanilla attention; None where either is missing."""
    csa, vanilla = specs(evidence, "csa", "vanilla")
    return (csa, vanilla) if csa and vanilla else None


def by_backbone(
    evidence: Evidence, cells: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, str]]:
    """Backbone -> name -> spec. ``cells`` has the values (as ``fixed`` in `line`) that select the
    spec of each name; a name without a spec is left out."""
    grid = {}
    for backbone in evidence.df["backbone"].astype(str).unique():
        of_backbone = {
            name: spec(evidence, backbone=backbone, **fixed) for name, fixed in cells.items()
        }
        grid[backbone] = {name: key for name, key in of_backbone.items() if key}
    return grid


def plot(
    ax: Axes,
    evidence: Evidence,
    lines: Mapping[str, Line],
    references: Mapping[str, str | None] | None = None,
) -> None:
    """Draw mIoU x100 with its interval as a band, one line per name.

    Args:
        lines: name -> place -> spec. references: name -> spec that is a horizontal line.
    """
    cells = evidence.cells
    for index, (name, places) in enumerate(lines.items()):
        table, shade = (
            100 * cells.loc[list(places.values()), ["miou", "low", "high"]],
            color(name, index),
        )
        ax.fill_between(list(places), table["low"], table["high"], color=shade, alpha=0.15, lw=0)
        ax.plot(list(places), table["miou"], "o-", color=shade, markersize=3.5, label=name)
    for name, key in (references or {}).items():
        if key is not None:
            dashes = DASHES.get(name, "-.")
            ax.axhline(100 * evidence.score(key), color="0.15", lw=1, ls=dashes, label=name)
    draw_floors(ax, evidence.summary, across=True)
    drawn = [key for places in lines.values() for key in places.values()]
    ax.set_ylabel(score_title(cells.loc[drawn], ", 95 % band"))


def curves(
    evidence: Evidence,
    panels: Mapping[str, Mapping[str, Line]],
    references: Mapping[str, str | None] | None = None,
    log: Sequence[str] = (),
) -> Figure:
    """One chart per parameter, side by side with one scale.

    Args:
        panels: title of the x axis -> lines, see `plot`.
        references: horizontal lines in every chart. log: titles with a logarithmic axis.
    """
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    size = (0.8 + 2.9 * columns, 0.7 + 2.5 * -(-len(panels) // columns))
    with charts(size, len(panels), columns, sharey=True) as (figure, axes):
        for ax, (title, lines) in zip(axes, panels.items(), strict=True):
            plot(ax, evidence, lines, references)
            ax.set_xlabel(title)
            places = sorted({place for line in lines.values() for place in line})
            if title in log:
                ax.set_xscale("log", base=2)
                ax.xaxis.set_major_formatter("{x:g}")
            if len(places) <= 8:
                ax.set_xticks(places, [f"{value:.3g}" for value in places])
                ax.minorticks_off()
            ax.yaxis.set_tick_params(labelleft=True)
        _legend(figure, axes)
    return figure


def _legend(figure: Figure, axes: Sequence[Any]) -> None:
    """One legend below all charts, each name once."""
    handles: dict[str, Any] = {}
    for ax in axes:
        entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
        alone = sum(handle.get_linestyle() == "-" for handle, _ in entries) == 1 and len(axes) > 1
        for handle, label in entries:
            if not (alone and handle.get_linestyle() == "-"):  # the axis names a chart's only line
                handles.setdefault(label, handle)
    longest = max(map(len, handles), default=1)
    columns = max(1, int(figure.get_size_inches()[0] / max(1.6, 0.5 + 0.065 * longest)))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns,
        frameon=False,
    )  # fmt: skip


def swept(df: pd.DataFrame) -> list[str]:
    """Parameters of which some variant has several values on an axis (`number`), all else equal."""
    table = df.drop_duplicates("spec")
    names = [str(c) for c in table if "." in str(c) and not str(c).endswith("seed")]
    return [name for name in names if lines_of(table, name)]


def lines_of(table: pd.DataFrame, x: str) -> list[pd.DataFrame]:
    """Groups of rows of ``table`` that differ in ``x`` alone and have two values of it or more.

    Column "place" is the value's place on the axis, "line" the variant's label without ``x``.
    """
    group, _, parameter = x.partition(".")
    names = [name for name in ("backbone", "dataset", "protocol") if name != group]
    table = table.assign(place=[number(value) for value in table[x]])
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
    evidence: Evidence | None = None,
) -> Figure:
    """mIoU against one parameter, with the interval as a band; one line per variant and setting.

    Args:
        df: from `results.load`. evidence: of ``df`` if there is one already.
        x: a column such as "attention.temperature" or "protocol.short_side"; fractions of depth
            ("3/12") and "last 2" count as numbers.
        log: logarithmic x axis.

    Raises:
        LabError: if there is no such column, or no variant has two values of it.
    """
    if x not in df:
        raise unknown("swept parameter", x, swept(df))
    evidence = evidence or Evidence(df)
    tables = lines_of(evidence.summary, x)
    if not tables:
        raise LabError(f"no variant was run with two values of {x} and all else equal")
    firsts = pd.concat([table.iloc[:1] for table in tables])
    varying = ["line", *(c for c in ("backbone", "dataset", "protocol") if firsts[c].nunique() > 1)]
    lines: dict[str, Line] = {}
    for table in tables:
        name = " · ".join(str(table.iloc[0][c]) for c in varying)
        name = f"{name} · {table['spec'].iloc[0]}" if name in lines else name
        lines[name] = dict(zip(table["place"], table["spec"].astype(str), strict=True))
    title = x.split(".", 1)[1].replace("_", " ")
    figure = curves(evidence, {title: lines}, log=[title] if log else [])
    ticks = {row["place"]: row[x] for table in tables for _, row in table.iterrows()}
    if len(ticks) <= 8:  # values as they were typed: "3/12", not 0.25
        texts = [f"{t:g}" if isinstance(t, int | float) else LAST.get(str(t), str(t))
                 for t in ticks.values()]  # fmt: skip
        figure.axes[0].set_xticks(list(ticks), texts)
    figure.set_label(f"mIoU x100 against {x}, with its 95 % interval over photos")
    return figure


def without(label: str, parameter: str) -> str:
    """A label without one parameter: "csa(temperature=2.0)" without "temperature" is "csa"."""
    rest = re.sub(rf"([(,]\s*){re.escape(parameter)}=[^,()\[\]]*", r"\1", label)
    rest = re.sub(r",\s*(?=[,)])", "", rest)
    return re.sub(r"\(\s*,?\s*", "(", rest).replace("()", "")


def label_points(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Write a name beside each point, where neither another name nor a point lies; a thin line
    leads from a name that had to move. Limits of the axes stay as they are.

    Args:
        ax: about `SIDE` inches wide and high, with its limits set. x, y, names: of the points.
    """
    points = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack([x, y])))
    line, dot = FONT * 1.1 / 72 / SIDE, 0.07 / SIDE
    dots = np.concatenate([points - dot / 2, points + dot / 2], axis=1)
    occupied = list(dots)  # left, low, right, high
    # A name may stand on either side of its point, up to so many steps above or below it.
    steps, is_left = np.repeat(np.arange(-STEPS, STEPS + 1), 2), np.tile([0, 1], 2 * STEPS + 1)
    for index in np.argsort(-points[:, 1], kind="stable"):
        (u, v), name = points[index], names[index]
        width = 0.56 * FONT * len(name) / 72 / SIDE
        corners = np.stack(
            [np.where(is_left, u - dot - width, u + dot), v + (steps - 1) * line / 2], axis=1
        )
        boxes = np.concatenate([corners, corners + np.array([width, line])], axis=1)
        outside = np.maximum(-boxes[:, :2], boxes[:, 2:] - 1).max(axis=1).clip(min=0)
        left_low, right_high = np.split(np.array(occupied), 2, axis=1)
        shared = np.minimum(boxes[:, None, 2:], right_high) - np.maximum(corners[:, None], left_low)
        covered = shared.clip(min=0).prod(axis=2).sum(axis=1)
        cost = 300 * outside + 400 * covered / (width * line) + np.abs(steps) + is_left
        best = int(cost.argmin())
        occupied.append(boxes[best])
        edge, side = (boxes[best, 2], "right") if is_left[best] else (boxes[best, 0], "left")
        middle = (boxes[best, 1] + boxes[best, 3]) / 2
        moved = abs(middle - v) > line
        ax.annotate(
            name, (u, v), (edge, middle), "axes fraction", "axes fraction", fontsize=FONT,
            ha=side, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.3, "color": "0.5", "shrinkA": 0, "shrinkB": 2}
            if moved
            else None,
        )  # fmt: skip

"""Scores against a parameter, and names beside points."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sclip_lab import results
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import COLORS, Figure, charts, color, draw_floors

STEPS = 14  # places to try above and below a point for its name
# Of reference lines, else "-.".
DASHES: dict[str, Any] = {
    "CSA": "--",
    "CSA (q + k)": "--",
    "vanilla": ":",
    "oracle: uniform over the class": (0, (9, 2)),
    "blind Gaussian": (0, (5, 1, 1, 1, 1, 1)),
}
Line = Mapping[float, str]  # place on the axis -> spec


def number(value: object) -> float:
    """A parameter's place on an axis: numbers, fractions of depth ("3/12"), "last 2"; else NaN."""
    try:
        return float(Fraction(str(value).removeprefix("last ")))
    except (ValueError, ZeroDivisionError):
        return float("nan")


def line(evidence: Evidence, parameter: str, **fixed: object) -> dict[float, str]:
    """Specs by their value of one configuration key, in the order of the values.

    Args:
        parameter: a key such as "attention.temperature".
        **fixed: variant, or configuration keys with "__" for dots, and the value to select.
    """
    table = pick(evidence, **fixed)
    values = table.get(parameter, pd.Series(dtype=object))  # no cell has such a parameter
    places = {spec: number(value) for spec, value in values.items()}
    ordered = sorted((place, str(spec)) for spec, place in places.items() if place == place)
    return dict(ordered)


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
    """`spec` of each of some variants."""
    return tuple(spec(evidence, variant=variant) for variant in variants)


def pair(evidence: Evidence, a: str = "csa", b: str = "vanilla") -> tuple[str, str] | None:
    """`spec` of two variants; None where either is missing."""
    one, two = specs(evidence, a, b)
    return (one, two) if one and two else None


def plot(
    ax: Axes,
    evidence: Evidence,
    lines: Mapping[str, Line],
    references: Mapping[str, str | None] | None = None,
) -> None:
    """Draw mIoU x100 with its interval as a band, one line per name.

    Args:
        lines: spec by place, by name. references: specs drawn as horizontal lines, by name.
    """
    cells = evidence.cells
    for index, (name, places) in enumerate(lines.items()):
        table = cells.loc[list(places.values())]
        _band(ax, list(places), table, color(name, index), name)
    for name, key in (references or {}).items():
        if key is not None:
            dashes = DASHES.get(name, "-.")
            ax.axhline(100 * evidence.score(key), color="0.15", lw=1, ls=dashes, label=name)
    draw_floors(ax, evidence.summary, across=True)
    ax.set_ylabel("mIoU x100, 95 % band")


def _band(ax: Axes, x: Sequence[float], table: pd.DataFrame, shade: str, name: str) -> None:
    ax.fill_between(x, table["low"] * 100, table["high"] * 100, color=shade, alpha=0.15, lw=0)
    ax.plot(x, table["miou"] * 100, "o-", color=shade, markersize=3.5, label=name)


def curves(
    evidence: Evidence,
    panels: Mapping[str, Mapping[str, Line]],
    references: Mapping[str, str | None] | None = None,
    log: Sequence[str] = (),
) -> Figure:
    """One chart per parameter, side by side with one scale.

    Args:
        panels: lines (see `plot`) by the axis' title.
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
            if not (alone and handle.get_linestyle() == "-"):  # its axis says what it is
                handles.setdefault(label, handle)
    longest = max(map(len, handles), default=1)
    columns = max(1, int(figure.get_size_inches()[0] / max(1.6, 0.5 + 0.065 * longest)))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns,
        frameon=False,
    )  # fmt: skip


def swept(df: pd.DataFrame) -> list[str]:
    """The parameters with values in an order of which some variant has several, all else equal."""
    table = df.drop_duplicates("spec")
    names = [str(c) for c in table if "." in str(c) and not str(c).endswith("seed")]
    return [name for name in names if lines_of(table, name)]


def lines_of(table: pd.DataFrame, x: str) -> list[pd.DataFrame]:
    """The rows of ``table`` that differ in ``x`` alone, at least two values of it each.

    Column "place" is the value's place on the axis, "line" the variant without this parameter.
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
    n: int = 2000,
    level: float = 0.95,
    table: pd.DataFrame | None = None,
) -> Figure:
    """mIoU against one parameter, with the interval as a band; one line per variant and setting.

    Args:
        df: from `results.load`. table: its `results.summary` if there is one already.
        x: a column such as "attention.temperature" or "protocol.short_side"; fractions of depth
            ("3/12") and "last 2" count as numbers.
        log: logarithmic x axis. n, level: of the bootstrap.

    Raises:
        LabError: if there is no such column, or no variant has two values of it.
    """
    if x not in df:
        raise unknown("swept parameter", x, swept(df))
    table = results.summary(df, n, level) if table is None else table
    lines = lines_of(table, x)
    if not lines:
        raise LabError(f"no variant was run with two values of {x} and all else equal")
    firsts = pd.concat([line.iloc[:1] for line in lines])
    varying = ["line", *(c for c in ("backbone", "dataset", "protocol") if firsts[c].nunique() > 1)]
    ticks = {row["place"]: row[x] for line in lines for _, row in line.iterrows()}
    with charts((3.5, 3.1)) as (figure, [ax]):
        for index, line in enumerate(lines):
            name = " · ".join(str(line.iloc[0][c]) for c in varying)
            _band(ax, line["place"].to_list(), line, COLORS[index % len(COLORS)], name)
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
        if len(ticks) <= 8:
            texts = [f"{t:g}" if isinstance(t, int | float) else str(t) for t in ticks.values()]
            ax.set_xticks(list(ticks), texts)
            ax.minorticks_off()
        draw_floors(ax, table, across=True)
        ax.set_xlabel(x.split(".", 1)[1].replace("_", " "))
        ax.set_ylabel(f"mIoU x100, {level * 100:g} % band")
        _legend(figure, [ax])
    figure.set_label(f"mIoU x100 against {x}, with its {level * 100:g} % interval over photos")
    return figure


def without(label: str, parameter: str) -> str:
    """A label without one parameter: "csa" of "csa(temperature=2.0)" and "temperature"."""
    rest = re.sub(rf"([(,]\s*){re.escape(parameter)}=[^,()\[\]]*", r"\1", label)
    rest = re.sub(r",\s*(?=[,)])", "", rest)
    return re.sub(r"\(\s*,?\s*", "(", rest).replace("()", "")


def label_points(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    size: tuple[float, float],
    fontsize: float = 5.0,
) -> None:
    """Write a name beside each point, where neither another name nor a point lies; a thin line
    leads from a name that had to move. Limits of the axes stay as they are.

    Args:
        ax: with its limits set. x, y: of the points. names: of the points.
        size: width and height of the axes in inches, as far as known.
        fontsize: in points.
    """
    points = np.column_stack([_shares(ax, x, 0), _shares(ax, y, 1)])
    line = fontsize * 1.1 / 72 / size[1]
    dot = 0.035 * 2.0 / min(size)
    dots = np.concatenate([points - dot / 2, points + dot / 2], axis=1)
    taken = list(dots)  # left, low, right, high
    # A name may stand on either side of its point, up to so many steps above or below it.
    steps, is_left = np.repeat(np.arange(-STEPS, STEPS + 1), 2), np.tile([0, 1], 2 * STEPS + 1)
    for index in np.argsort(-points[:, 1], kind="stable"):
        (u, v), name = points[index], names[index]
        width = 0.56 * fontsize * len(name) / 72 / size[0]
        corners = np.stack(
            [np.where(is_left, u - dot - width, u + dot), v + (steps - 1) * line / 2], axis=1
        )
        boxes = np.concatenate([corners, corners + np.array([width, line])], axis=1)
        outside = np.maximum(-boxes[:, :2], boxes[:, 2:] - 1).max(axis=1).clip(min=0)
        left_low, right_high = np.split(np.array(taken), 2, axis=1)
        shared = np.minimum(boxes[:, None, 2:], right_high) - np.maximum(corners[:, None], left_low)
        covered = shared.clip(min=0).prod(axis=2).sum(axis=1)
        cost = 300 * outside + 400 * covered / (width * line) + np.abs(steps) + is_left
        best = int(cost.argmin())
        taken.append(boxes[best])
        edge, side = (boxes[best, 2], "right") if is_left[best] else (boxes[best, 0], "left")
        middle = (boxes[best, 1] + boxes[best, 3]) / 2
        moved = abs(middle - v) > line
        ax.annotate(
            name, (u, v), (edge, middle), "axes fraction", "axes fraction", fontsize=fontsize,
            ha=side, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.3, "color": "0.5", "shrinkA": 0, "shrinkB": 2}
            if moved
            else None,
        )  # fmt: skip


def _shares(ax: Axes, values: Sequence[float], axis: int) -> np.ndarray:
    """Places along an axis as shares of its length."""
    scale = (ax.xaxis, ax.yaxis)[axis].get_transform()
    low, high = scale.transform(np.array((ax.get_xlim(), ax.get_ylim())[axis], float))
    return (scale.transform(np.asarray(values, float)) - low) / (high - low)

"""Bars of cells in groups: one group per setting, one colour per variant."""

from __future__ import annotations

from collections.abc import Mapping

import seaborn as sns

from sclip_lab.report.figure import Figure
from sclip_lab.report.figures import color, style
from sclip_lab.report.found import Found


def grouped(found: Found, grid: Mapping[str, Mapping[str, str]]) -> Figure:
    """mIoU x100 with 95 % intervals.

    Args:
        found: the cells. grid: group -> variant -> spec.
    """
    variants = list(dict.fromkeys(name for specs in grid.values() for name in specs))
    height = 0.8 / len(variants)
    with style():
        size = (5.6, 0.9 + 0.16 * len(grid) * max(2, len(variants)))
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        for index, variant in enumerate(variants):
            places, scores, low, high = [], [], [], []
            for row, specs in enumerate(grid.values()):
                if variant in specs:
                    cell = found.summary.set_index(found.summary["spec"].astype(str)).loc[
                        specs[variant]
                    ]
                    places.append(row + (index - (len(variants) - 1) / 2) * height)
                    scores.append(100 * cell["miou"])
                    low.append(100 * (cell["miou"] - cell["low"]))
                    high.append(100 * (cell["high"] - cell["miou"]))
            error = [[max(0.0, v) for v in low], [max(0.0, v) for v in high]]
            ax.barh(places, scores, height, xerr=error, color=color(variant, index), label=variant,
                    error_kw={"elinewidth": 0.7, "capsize": 1.5})  # fmt: skip
        ax.set_yticks(range(len(grid)), list(grid))
        ax.invert_yaxis()
        ax.set_xlabel("mIoU x100, 95 % interval")
        longest = max(len(name) for name in variants)
        columns = max(1, int(size[0] / (0.55 + 0.065 * longest)))
        figure.legend(loc="outside lower center", ncols=columns, frameon=False)
        sns.despine(ax=ax)
    return figure

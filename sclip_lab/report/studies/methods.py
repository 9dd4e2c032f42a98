"""Every method under one protocol, and each under its own: ranks with intervals."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from sclip_lab.report import published
from sclip_lab.report.figure import Figure
from sclip_lab.report.figures import COLORS, style
from sclip_lab.report.found import Found
from sclip_lab.report.studies import Study
from sclip_lab.report.verdicts import Verdict, best, higher, nothing
from sclip_lab.results.across import ranks

ONE = "unified"
RIVALS = ("clearclip", "naclip", "scclip", "resclip")


def _unified(found: Found) -> Found:
    protocols = found.cells["protocol"].astype(str)
    return found.of(list(found.cells.index[protocols == ONE]))


def _pairs(found: Found) -> dict[str, tuple[str, str]]:
    """Variant -> (spec under its own protocol, spec under the one of all)."""
    cells = found.cells
    same = cells[cells["protocol"].astype(str) == ONE]
    shared = {str(cell["attention"]): str(spec) for spec, cell in same.iterrows()}
    return {
        str(cell["attention"]): (str(spec), shared[str(cell["attention"])])
        for spec, cell in cells.iterrows()
        if str(cell["protocol"]) != ONE and str(cell["attention"]) in shared
    }


def _verdicts(found: Found) -> list[Verdict]:
    one, judged = _unified(found), []
    if one.df["spec"].nunique() > 1:
        specs = list(one.cells.sort_values("miou", ascending=False).index)
        judged.append(best(one, specs[0], specs, f"Under one protocol one method, "
                           f"{one.name(specs[0])}, is surely ahead of all others"))  # fmt: skip
        first = next((s for s in specs if one.name(s) == "csa"), None)
        if first:
            rivals = {one.name(s): s for s in specs if one.name(s) in RIVALS}
            family = [(spec, first) for spec in rivals.values()]
            for rival, spec in rivals.items():
                claim = f"{rival} is better than CSA under one protocol"
                judged.append(higher(one, spec, first, claim, family))
    pairs = _pairs(found)
    for name, (own, shared) in pairs.items():
        claim = f"{name} is better under its own protocol than under the one of all"
        judged.append(higher(found, own, shared, claim, list(pairs.values())))
    if not pairs:
        judged.append(nothing("Methods are better under their own protocols", "none was computed"))
    return judged


def _figures(found: Found) -> dict[str, Figure]:
    one = _unified(found)
    if one.df["spec"].nunique() < 2:
        return {}
    table = ranks(one.df).sort_values("rank", ignore_index=True)
    with style():
        size = (5.0, 0.8 + 0.15 * len(table))
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        rows = range(len(table))
        ax.hlines(rows, table["low"], table["high"], color=COLORS[5], lw=4)
        ax.plot(table["rank"], rows, "o", color=COLORS[0], markersize=4)
        scores = [f"{n}   {100 * s:.1f}" for n, s in zip(table["attention"], table["score"],
                                                         strict=True)]  # fmt: skip
        ax.set_yticks(rows, scores)
        ax.invert_yaxis()
        ax.set_xlabel("rank by mIoU, 1 is best; bars: 95 % of resamples")
        sns.despine(ax=ax)
    return {"methods": figure}


def _tables(found: Found) -> dict[str, pd.DataFrame]:
    return {"methods": published.scores(found)}


STUDY = Study(
    question="In which order do methods come under one protocol, and what does each gain by its "
    "own?",
    verdicts=_verdicts,
    figures=_figures,
    tables=_tables,
    order=11,
)

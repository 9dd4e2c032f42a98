"""Every method under one protocol, and each under its own: ranks with intervals."""

from __future__ import annotations

import pandas as pd

from sclip_lab.paper.claims import Claim, best, higher, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import COLORS, Figure, charts
from sclip_lab.results.statistics.across import ranks

ONE = "unified"
RIVALS = ("clearclip", "naclip", "scclip", "resclip")
EQUAL = "its own protocol changes nothing on these photos"


def _unified(evidence: Evidence) -> Evidence:
    protocols = evidence.cells["protocol"].astype(str)
    return evidence.of(list(evidence.cells.index[protocols == ONE]))


def _pairs(evidence: Evidence) -> dict[tuple[str, str], tuple[str, str]]:
    """(variant, protocol) -> (spec under this protocol, spec under the protocol that all share).

    A variant may have several protocols: ClearCLIP and GEM have FreeCP's besides their own.
    """
    cells = evidence.cells
    same = cells[cells["protocol"].astype(str) == ONE]
    shared = {str(cell["attention"]): str(spec) for spec, cell in same.iterrows()}
    return {
        (str(cell["attention"]), str(cell["protocol"])): (str(spec), shared[str(cell["attention"])])
        for spec, cell in cells.iterrows()
        if str(cell["protocol"]) != ONE and str(cell["attention"]) in shared
    }


def _claims(evidence: Evidence) -> list[Claim]:
    one, claims = _unified(evidence), []
    if one.df["spec"].nunique() > 1:
        specs = list(one.cells.sort_values("miou", ascending=False).index)
        claims.append(best(one, specs[0], specs, f"Under one protocol one method, "
                           f"{one.name(specs[0])}, is surely ahead of all others"))  # fmt: skip
        first = next((s for s in specs if one.name(s) == "csa"), None)
        if first:
            rivals = {one.name(s): s for s in specs if one.name(s) in RIVALS}
            family = [(spec, first) for spec in rivals.values()]
            for rival, spec in rivals.items():
                text = f"{rival} is better than CSA under one protocol"
                claims.append(higher(one, spec, first, text, family))
    pairs = _pairs(evidence)
    for (name, protocol), (with_own, shared) in pairs.items():
        text = f"{name} is better under protocol {protocol} than under the one that all share"
        claims.append(higher(evidence, with_own, shared, text, list(pairs.values()), same=EQUAL))
    if not pairs:
        claims.append(missing("Methods are better under their own protocols", "none was computed"))
    return claims


def _figures(evidence: Evidence) -> dict[str, Figure]:
    one = _unified(evidence)
    if one.df["spec"].nunique() < 2:
        return {}
    table = ranks(one.df).sort_values("rank", ignore_index=True)
    names = [f"{row['attention']}   {100 * row['score']:.1f}" for _, row in table.iterrows()]
    figure = _dots(table, "rank", names, 0.15)
    figure.axes[0].set_xlabel("rank by mIoU, 1 is best")
    figure.set_label(
        "ranks under one protocol; bars hold 95 % of resamples of photos, and are no test: see the "
        "verdicts"
    )
    pairs = _pairs(evidence)
    return {"methods": figure} | (
        {"methods_own": _gains_by_protocol(evidence, pairs)} if pairs else {}
    )


def _gains_by_protocol(evidence: Evidence, pairs: dict[tuple[str, str], tuple[str, str]]) -> Figure:
    """What each method gains by its own protocol."""
    differences = {name: evidence.difference(*pair) for name, pair in pairs.items()}
    table = 100 * pd.DataFrame(differences).T[["difference", "low", "high"]].astype(float)
    table = table.sort_values("difference", ascending=False, kind="stable")
    names = [f"{name}, {protocol}   {100 * evidence.score(pairs[name, protocol][0]):.1f}"
             for name, protocol in table.index]  # fmt: skip
    figure = _dots(table, "difference", names, 0.2)
    figure.axes[0].axvline(0, color="0.6", lw=1, zorder=0)
    figure.axes[0].set_xlabel(
        "gain in mIoU x100 over the shared protocol,\n95 % interval (right is good)"
    )
    figure.set_label(
        "each method with a protocol of its own code, and its score under that; gain over its "
        "score under the protocol that all share"
    )
    return figure


def _dots(table: pd.DataFrame, value: str, names: list[str], height: float) -> Figure:
    """A chart with a dot and an interval for each row; a row is ``height`` inches high."""
    rows = range(len(table))
    with charts((5.0, 0.9 + height * len(table))) as (figure, [ax]):
        ax.hlines(rows, table["low"], table["high"], color=COLORS[5], lw=4)
        ax.plot(table[value], rows, "o", color=COLORS[0], markersize=4)
        ax.set_yticks(rows, names)
        ax.set_ylim(len(table) - 0.4, -0.6)
    return figure


STUDY = Study(
    question="In which order do methods come under one protocol, and what does each gain by its "
    "own?",
    claims=_claims,
    figures=_figures,
    order=11,
)

"""What of an attention map makes the score? One part is set at a time, all else stays."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, Comparison, alike, best, gated, higher, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import curves, line, number, pick, spec, specs
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import COLORS, charts, interval_bars
from sclip_lab.report.gains import by_class
from sclip_lab.report.tables import captioned
from sclip_lab.results.statistics.intervals import interval, p_value
from sclip_lab.results.statistics.resampling import Scored, combined

PARTS = {
    "mass": "mass on other classes",
    "sharpness": "sharpness within each side",
    "place": "place: which patches weigh more",
    "weight": "weight: the row's sum",
}
BASES = {"vanilla": "map of vanilla", "csa_mean": "map of CSA", "uniform": "uniform map"}
SHARE = 0.8
MARGIN = 0.03
MASS = "mass on other classes (oracle)"
SHARPNESS = "entropy within each side, of uniform (oracle)"
MOVED, ROW_SUM = "share moved from vanilla to CSA", "row sum"


def _cells(evidence: Evidence) -> dict[frozenset[str], str]:
    """Set of parts that are taken from CSA (the others are vanilla's) -> cell; empty unless all 16
    sets have a cell."""
    cells = {}
    for key, row in pick(evidence, variant="oracle composed").iterrows():
        from_csa = {part for part in PARTS if row[f"attention.{part}"] == "csa"}
        cells[frozenset(from_csa)] = str(key)
    return cells if len(cells) == 2 ** len(PARTS) else {}


def shapley(evidence: Evidence, cells: Mapping[frozenset[str], str]) -> dict[str, Scored]:
    """Each part's share of CSA's gain: the mean, over all orders in which parts can be taken from
    CSA, of what the score gains when this part's turn comes (Shapley, 1953).

    Args:
        cells: from `_cells`.

    Returns:
        per part a difference in mIoU with its resamples; they add up to CSA's gain.
    """
    count, values = len(PARTS), {}
    for part in PARTS:
        others = [name for name in PARTS if name != part]
        gaps, weights = [], []
        for size in range(count):
            for before in combinations(others, size):
                from_csa = frozenset(before)
                gaps.append(evidence.comparisons.gap(cells[from_csa | {part}], cells[from_csa]))
                weights.append(factorial(size) * factorial(count - 1 - size) / factorial(count))
        values[part] = combined(gaps, weights, (-1.0, 1.0))
    return values


def _set_mass(evidence: Evidence, **fixed: Any) -> dict[float, str]:
    return line(evidence, "attention.other", variant="oracle set_mass", attention__layers=[-1],
                **fixed)  # fmt: skip


# ---------------------------------------------------------------- claims


def _share_of_gain(
    evidence: Evidence, text: str, changed: str | None, ends: tuple[str | None, str | None]
) -> Claim:
    """Claim: ``changed`` scores at least `SHARE` of the way from ``ends[0]`` to ``ends[1]``."""
    low, high = ends
    if changed is None or low is None or high is None:
        return missing(text, "not computed")
    gain, part = evidence.comparisons.gap(high, low), evidence.comparisons.gap(changed, low)
    beyond = combined([part, gain], [1.0, -SHARE], (-1.0, 1.0))
    facts = (
        f"{evidence.name(changed)} at {100 * evidence.score(changed):.1f}, between "
        f"{100 * evidence.score(low):.1f} and {100 * evidence.score(high):.1f}: "
        f"{100 * part.estimate:+.1f} of {100 * gain.estimate:+.1f}"
    )
    if gain.estimate == 0:
        return missing(text, "both ends score alike")
    key = ("share", f"{SHARE:g}", *map(evidence.comparisons.counts, (changed, low, high)))
    test = Comparison.of(key, p_value(beyond), beyond.estimate * gain.estimate > 0)
    return gated(evidence, Claim(text, facts, (test,)), [low, high])


def _largest_part(evidence: Evidence, cells: Mapping[frozenset[str], str]) -> Claim:
    text = "Of the four parts of a row, mass on other classes has the largest share of CSA's gain"
    if not cells:
        return missing(text, "not all 16 combinations were computed")
    values = shapley(evidence, cells)
    tests = []
    for part in list(PARTS)[1:]:
        gap = combined([values["mass"], values[part]], [1.0, -1.0], (-1.0, 1.0))
        key = ("shapley", "mass", part, *sorted(map(evidence.comparisons.counts, cells.values())))
        tests.append(Comparison.of(key, p_value(gap), gap.estimate > 0))
    facts = ", ".join(f"{part} {100 * value.estimate:+.1f}" for part, value in values.items())
    ends = [cells[frozenset(PARTS)], cells[frozenset()]]
    return gated(evidence, Claim(text, facts, tuple(tests)), ends)


def _claims(evidence: Evidence) -> list[Claim]:
    cells = _cells(evidence)
    vanilla, csa, blind = specs(evidence, "vanilla", "csa", "blind")
    with_mass = cells.get(frozenset({"mass"}))
    without = cells.get(frozenset(PARTS) - {"mass"})
    shuffled = {
        base: spec(evidence, variant="oracle shuffled", attention__base=base)
        for base in ("vanilla", "csa")
    }
    blocks = _by_block(evidence)
    lowest = _set_mass(evidence, attention__base="csa_mean").get(0.0)
    claims = [
        _share_of_gain(evidence, "Setting vanilla's mass on other classes to CSA's gives at least "
                       "80 % of CSA's gain", with_mass, (vanilla, csa)),
        _share_of_gain(evidence, "Setting CSA's mass on other classes to vanilla's takes at least "
                       "80 % of CSA's gain away", without, (csa, vanilla)),
        _largest_part(evidence, cells),
        _share_of_gain(evidence, "Which patches of a class weigh more hardly matters: CSA with its "
                       "weights shuffled within either side keeps at least 80 % of its gain",
                       shuffled["csa"], (vanilla, csa)),
        higher(evidence, csa, blind, "CSA is better than a Gaussian that "
               "is blind to content"),
        higher(evidence, lowest, csa, "CSA would gain from putting no weight on other classes"),
    ]  # fmt: skip
    if vanilla and shuffled["vanilla"]:
        claims.append(alike(
            evidence, [shuffled["vanilla"]], vanilla, MARGIN, "That vanilla's maps are alike from "
            "everywhere is not what costs: shuffled within either side they differ, and score "
            "within 3 points"))  # fmt: skip
    if len(blocks) > 1:
        last = blocks[max(blocks)]
        claims.append(best(evidence, last, list(blocks.values()), "The last block's mass on other "
                           "classes matters most: removing it there gains most"))  # fmt: skip
    return claims


# ---------------------------------------------------------------- figures and tables


def _by_block(evidence: Evidence) -> dict[float, str]:
    """The cells in which vanilla's mass on other classes is 0 in one block, by the place of that
    block: a share of the depth, 1 for the last block (which a cell calls -1)."""
    table = pick(
        evidence, variant="oracle set_mass", attention__base="vanilla", attention__other=0.0
    )
    layers = table.get("attention.layers", pd.Series(dtype=object))
    single = {key: number(*of_cell) for key, of_cell in layers.items()
              if isinstance(of_cell, list | tuple) and len(of_cell) == 1}  # fmt: skip
    return dict(sorted((abs(place), str(key)) for key, place in single.items() if place >= -1))


def _dose(evidence: Evidence) -> Figure:
    panels = {
        MASS: {name: _set_mass(evidence, attention__base=base) for base, name in BASES.items()},
        MOVED: {
            "from vanilla to CSA": _between(
                evidence, "share", "vanilla", "csa", {0.0: "vanilla", 1.0: "csa_mean"}
            )
        },
        SHARPNESS: {
            BASES["vanilla"]: {},  # empty, so that the next line has CSA's colour
            BASES["csa_mean"]: line(evidence, "attention.at", variant="oracle entropy"),
        },
        ROW_SUM: {
            BASES["vanilla"]: _between(evidence, "row_sum", "vanilla", "vanilla", {1.0: "vanilla"}),
            BASES["csa_mean"]: _between(
                evidence, "row_sum", "csa", "csa", {1.0: "csa_mean", 2.0: "csa"}
            ),
        },
    }
    panels = {title: lines for title, lines in panels.items() if any(lines.values())}
    names = ("oracle: uniform over the class", "CSA", "blind Gaussian", "vanilla")
    variants = specs(evidence, "oracle", "csa", "blind", "vanilla")
    references = dict(zip(names, variants, strict=True))
    figure = curves(evidence, panels, references, log=[ROW_SUM])
    _mark_base_maps(evidence, figure)
    figure.set_label(
        "one part of the last block's map is set, everything else stays; crosses: where the map "
        "itself lies; band: 95 % interval over photos. All but the second and fourth chart read "
        "ground truth: oracles, no method's score"
    )
    return figure


def _between(
    evidence: Evidence, parameter: str, a: str, b: str, ends: Mapping[float, str]
) -> dict[float, str]:
    """Cells whose map lies between those of ``a`` and ``b``, by one parameter, as in `line`."""
    return line(evidence, f"attention.{parameter}", ends, variant="between", attention__a=a,
                attention__b=b)  # fmt: skip


def _mark_base_maps(evidence: Evidence, figure: Figure) -> None:
    """Mark each base map at its own mass on other classes, where that was measured."""
    masses = evidence.values("inter_class_mass")
    for index, base in enumerate(BASES):
        key = spec(evidence, variant=base)
        if key in masses and figure.axes:
            figure.axes[0].plot(masses[key].mean(), 100 * evidence.score(str(key)), "x",
                                markersize=7, color=COLORS[index], mew=1.6, zorder=5)  # fmt: skip


def parts(evidence: Evidence) -> pd.DataFrame:
    """The four parts of CSA's gain: part, gain, low, high, and share of the gain."""
    cells = _cells(evidence)
    if not cells:
        return pd.DataFrame()
    values = shapley(evidence, cells)
    whole = evidence.comparisons.gap(cells[frozenset(PARTS)], cells[frozenset()])
    rows = []
    for name, value in [*((PARTS[p], v) for p, v in values.items()), ("all four", whole)]:
        low, high = interval(value)
        share = value.estimate / whole.estimate if whole.estimate else np.nan
        row = {"part": name, "gain": value.estimate, "low": low, "high": high, "share": share}
        rows.append(row)
    caption = (
        "CSA's gain over vanilla by the four parts of a row, mIoU x100: Shapley values over the 16 "
        "combinations, with paired 95 % intervals over photos. All combinations but the two ends "
        "are oracles"
    )
    return captioned(rows, caption, plain=("share",))


def _bars(table: pd.DataFrame) -> Figure:
    gains = 100 * table[["gain", "low", "high"]]
    colors = [COLORS[5]] * (len(table) - 1) + ["0.7"]
    with charts((5.6, 2.2)) as (figure, [ax]):
        interval_bars(ax, range(len(table)), gains, height=0.65, color=colors)
        ax.set_yticks(range(len(table)), list(table["part"]))
        ax.invert_yaxis()
        ax.axvline(0, color="black", lw=0.8)
        ax.set_xlabel("CSA's gain over vanilla in mIoU x100, 95 % interval")
    figure.set_label(str(table.attrs["caption"]))
    return figure


def _figures(evidence: Evidence) -> dict[str, Figure]:
    figures = {"interventions_dose": _dose(evidence)}
    table = parts(evidence)
    if len(table):
        figures["interventions_parts"] = _bars(table)
    blocks = _by_block(evidence)
    if len(blocks) > 1:
        references = dict(zip(("vanilla", "CSA"), specs(evidence, "vanilla", "csa"), strict=True))
        title = "block with mass 0, as a share of the depth"
        figure = curves(evidence, {title: {"vanilla attention, mass 0 in one block": blocks}},
                        references)  # fmt: skip
        figure.set_label("vanilla attention whose mass on other classes is set to 0 in one block "
                         "alone; an oracle; band: 95 % interval over photos")  # fmt: skip
        figures["interventions_blocks"] = figure
    return figures


def _per_class(evidence: Evidence, columns: Mapping[str, str | None]) -> pd.DataFrame:
    """IoU of each class for some cells, sorted by the gain of the last cell over the first."""
    present = {name: key for name, key in columns.items() if key}
    if len(present) < len(columns):
        return pd.DataFrame()
    table = by_class(evidence, list(present.values())).set_index("class")
    table.columns = list(present)
    order = (table.iloc[:, -1] - table.iloc[:, 0]).sort_values(ascending=False).index
    caption = (
        "IoU x100 by class: vanilla, vanilla with CSA's mass on other classes (an oracle), CSA"
    )
    return captioned(table.loc[order].reset_index(), caption)


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    tables = {"interventions_parts": parts(evidence)}
    tables["interventions_per_class"] = _per_class(evidence, {
        "vanilla": spec(evidence, variant="vanilla"),
        "oracle: vanilla with CSA's mass": _cells(evidence).get(frozenset({"mass"})),
        "CSA": spec(evidence, variant="csa"),
    })  # fmt: skip
    return {name: table for name, table in tables.items() if len(table)}


def _localises(evidence: Evidence) -> str:
    table = parts(evidence)
    if table.empty:
        return ""
    shares = [f"{row['part']} {100 * row['gain']:+.1f}" for _, row in table.iloc[:-1].iterrows()]
    whole = 100 * table["gain"].iloc[-1]
    return f"CSA's gain of {whole:+.1f} is by parts of a row (Shapley): {'; '.join(shares)}."


STUDY = Study(
    question="What of an attention map makes the score: how much of it falls on other classes, how "
    "sharp it is, which patches weigh more, or how much it weighs against the residual?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    answers={"localises": _localises},
    order=13,
)

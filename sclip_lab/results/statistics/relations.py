"""Which diagnostic goes with the score: over variants, with intervals over photos.

That two numbers go together over variants does not say that one makes the other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.results.statistics.resampling import Design
from sclip_lab.results.statistics.uncertainty import check, resampled
from sclip_lab.results.table.metrics import Array, divide
from sclip_lab.results.table.scores import NAMES, methods_only, spec_rows


def points(df: pd.DataFrame, measured: pd.DataFrame, statistic: str = "miou") -> pd.DataFrame:
    """What a scatter of diagnostics against the score shows.

    Args:
        df: from `results.load`. measured: from `results.diagnostics` of the same store.
        statistic: miou, pixel_accuracy or mean_accuracy.

    Returns:
        One row per spec and measure: spec, attention, backbone, dataset, protocol, measure, value
        (mean over the measured photos), photos (how many), score, better ("high", "low" or ""),
        is_control.
    """
    from sclip_lab.diagnostics import MEASURES  # imports torch, which most results never need

    check(statistic, 1, 0.95)
    means = measured.groupby(["spec", "measure"], observed=True, sort=False)["value"]
    table = pd.DataFrame({"value": means.mean(), "photos": means.size()}).reset_index()
    table["spec"] = table["spec"].astype(str)
    scores = {
        spec: scored.estimate
        for group in resampled(df, statistic, 1, 0)
        for spec, scored in zip(group.specs, group.scores, strict=True)
    }
    table = spec_rows(df)[NAMES].astype({"spec": str}).merge(table, on="spec")
    table["score"] = table["spec"].map(scores)
    known = {name: MEASURES[name] for name in table["measure"].unique() if name in MEASURES}
    table["better"] = [known[m].better if m in known else "" for m in table["measure"]]
    table["is_control"] = [m in known and known[m].is_control for m in table["measure"]]
    return table


def relations(
    df: pd.DataFrame,
    measured: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's correlation of each diagnostic with the score, over the variants of a data set.

    Scores and diagnostics are resampled with the same photos; a photo that was not measured
    counts in the score alone. Controls are left out, and specs on which a measure is not defined.

    Args:
        df, measured, statistic: as `points`.
        n: resamples. level: of the interval (quantiles). seed: of the resamples.

    Returns:
        One row per data set (and set of images) and measure, the closest relation first: dataset,
        measure, spearman (NaN where all values are equal), low, high, variants, photos
        (measured), better ("high", "low" or ""), as_expected (True or False where the interval
        excludes 0 and a direction is known to be good; None elsewhere).

    Raises:
        LabError: fewer than three variants, none of which says anything about a rank.
    """
    from sclip_lab.diagnostics import MEASURES

    check(statistic, n, level)
    df = methods_only(df)
    rows = []
    for group in resampled(df, statistic, n, seed):
        dataset = str(df.loc[df["spec"] == group.specs[0], "dataset"].iloc[0])
        place = {spec: k for k, spec in enumerate(group.specs)}
        images = df.loc[df["spec"] == group.specs[0], "image"].astype(str).unique()
        # The order in which `resampled` numbers photos: that of the categories in the data.
        order = df.astype({"image": "category"})["image"].cat.categories.astype(str)
        number = {name: k for k, name in enumerate([i for i in order if i in set(images)])}
        weights = np.concatenate(list(Design.plain(len(number), n, seed).weights()))
        for measure, found in measured.groupby("measure", observed=True, sort=False):
            name = str(measure)
            if name in MEASURES and MEASURES[name].is_control:
                continue
            mine = found[found["spec"].astype(str).isin(place) & found["value"].notna()]
            mine = mine[mine["image"].astype(str).isin(number)]
            values = mine.pivot_table(
                index="image", columns="spec", values="value", observed=True, sort=False
            )
            if values.shape[1] < 3:
                continue
            own = weights[:, [number[str(image)] for image in values.index]]
            known = values.notna().to_numpy(float)
            sums = own @ values.fillna(0).to_numpy(float)
            drawn = divide(sums, own @ known)
            chosen = [group.scores[place[str(spec)]] for spec in values]
            estimate = spearman(
                values.mean().to_numpy()[None], np.array([[s.estimate for s in chosen]])
            )[0]
            spread = spearman(drawn, np.stack([s.resampled for s in chosen], axis=1))
            spread = spread[~np.isnan(spread)]
            ends = [(1 - level) / 2, (1 + level) / 2]
            low, high = np.quantile(spread, ends) if len(spread) else (np.nan, np.nan)
            better = MEASURES[name].better if name in MEASURES else ""
            sure = bool(better) and (low > 0 or high < 0)
            rows.append(
                {
                    "dataset": dataset,
                    "measure": name,
                    "spearman": estimate,
                    "low": float(low),
                    "high": float(high),
                    "variants": values.shape[1],
                    "photos": len(values),
                    "better": better,
                    "as_expected": bool((estimate > 0) == (better == "high")) if sure else None,
                }
            )
    if not rows:
        raise LabError("a relation needs three variants or more that were measured on a data set")
    table = pd.DataFrame(rows)
    table = table.sort_values(
        ["dataset", "spearman"],
        key=lambda c: -c.abs() if c.name == "spearman" else c,
        kind="stable",
    ).reset_index(drop=True)
    table.attrs["level"] = level
    return table


def layer_heads(measured: pd.DataFrame, attention: str, measure: str) -> pd.DataFrame:
    """A measure of one variant by layer and head, for a heat map.

    Args:
        measured: from ``results.diagnostics(store, layers=True)``, of one backbone and data set.
        attention: the variant's label. measure: its name.

    Returns:
        Index layer, columns head (-1: the layer's own number), means over photos; NaN where the
        layer's weights are not known.

    Raises:
        LabError: an unknown label or measure, or several specs of that label.
    """
    for column, name in (("attention", attention), ("measure", measure)):
        if name not in set(measured[column]):
            raise unknown(column, name, map(str, measured[column].unique()))
    mine = measured[(measured["attention"] == attention) & (measured["measure"] == measure)]
    if mine["spec"].nunique() != 1:
        raise LabError(f"'{attention}' has {mine['spec'].nunique()} specs with '{measure}'")
    table = mine.pivot_table(index="layer", columns="head", values="value", observed=True)
    return table.reindex(range(int(measured["layer"].max()) + 1)).rename_axis("layer")


def spearman(x: Array, y: Array) -> Array:
    """Rank correlation of each row of (rows, variants) with the same row of the other; NaN where
    a row is constant or holds a NaN."""
    from scipy import stats  # takes half a second

    ranks = [stats.rankdata(z, axis=1) for z in (x, y)]
    one, two = (r - r.mean(1, keepdims=True) for r in ranks)
    found = divide((one * two).sum(1), np.sqrt((one**2).sum(1) * (two**2).sum(1)))
    found[np.isnan(x).any(1) | np.isnan(y).any(1)] = np.nan
    return found

"""How each diagnostic correlates with the score over variants, tested by families and photos.

A correlation over variants does not say that one number causes the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS
from sclip_lab.results.statistics.uncertainty import check, resampled, samples
from sclip_lab.results.table.metrics import Array, divide
from sclip_lab.results.table.scores import check_rows, methods_only, spec_rows

FEWEST = 8  # with fewer families a relation is a description and no finding


def relations(
    df: pd.DataFrame,
    measured: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    families: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Spearman's correlation of each diagnostic with the score, over the variants of a data set.

    The claim is about variants, and variants of one family are nearly the same variant. So the
    interval resamples families and photos together, and p permutes the families' mean scores
    against their mean diagnostics; p is never below the two-sided p of resampling photos alone.
    p_adjusted is p adjusted over all measures. Scores and diagnostics are resampled with the same
    photos; a photo that was not measured counts in the score alone. Controls are left out, and
    specs on which a measure is not defined. On fewer than `FEWEST_PHOTOS` measured photos there is
    neither an interval nor a p.

    Args:
        df: from `results.load`. measured: from `results.diagnostics` of the same store.
        statistic: miou, pixel_accuracy or mean_accuracy.
        n: resamples, and permutations. level: of the interval (quantiles). seed: of both.
        families: spec -> name of its family; by default `families_of`.

    Returns:
        One row per data set (and set of images) and measure, the strongest correlation first:
        dataset, measure, spearman (over variants; NaN where all values are equal), low, high,
        by_family (over the means of families), p, p_adjusted, least, most (range of ``spearman``
        with one family left out), variants, families, photos (measured), better ("high", "low" or
        ""), as_expected (whether the correlation has the direction ``better``; None where
        p_adjusted is not below 1 - level, families are fewer than `FEWEST`, or ``better`` is "").

    Raises:
        LabError: no measure has values for three variants of one data set.
    """
    from sclip_lab.diagnostics import MEASURES

    check(statistic, n, level, seed)
    check_rows(df)
    if lacking := {"spec", "image", "measure", "value"} - set(getattr(measured, "columns", ())):
        raise LabError(f"measured: no table of results.diagnostics, without {sorted(lacking)}")
    df = methods_only(df).astype({"image": "category"})
    families = families_of(df) if families is None else families
    rows = []
    for group in resampled(df, statistic, n, seed):
        specs, first = list(group), next(iter(group.values()))
        _, dataset, codes, _ = next(samples(df[df["spec"] == specs[0]]))
        number = {str(name): k for k, name in enumerate(df["image"].cat.categories[codes])}
        tried = _tried(measured, specs, number)
        if not tried:
            continue
        weights = np.concatenate(list(first.design.weights()))
        family = np.array([families[spec] for spec in specs])
        estimates = np.array([scored.estimate for scored in group.values()])
        resampled_scores = np.stack([scored.resampled for scored in group.values()], axis=1)
        draws = np.random.default_rng([seed, 3])
        names, place = np.unique(family, return_inverse=True)
        # (n, variants): how often each variant's family was drawn, with replacement.
        copies = draws.multinomial(len(names), np.full(len(names), 1 / len(names)), n)
        drawn_families = copies[:, place].astype(float)
        # (measures, variants); NaN where a spec was not measured.
        means = np.stack([grid.mean().reindex(specs).to_numpy() for grid in tried.values()])
        by_family, p, adjusted = over_families(means, estimates, family, n, draws)
        for row, (measure, grid) in enumerate(tried.items()):
            is_measured = ~np.isnan(means[row])
            x, y, group_of = means[row][is_measured], estimates[is_measured], family[is_measured]
            columns = grid[np.array(specs)[is_measured]]
            photos = weights[:, [number[str(image)] for image in columns.index]]
            sums = photos @ columns.fillna(0).to_numpy(float)
            values = divide(sums, photos @ columns.notna().to_numpy(float))
            scores = resampled_scores[:, is_measured]
            spread = spearman(values, scores, drawn_families[:, is_measured])
            spread = spread[~np.isnan(spread)]
            ends = [(1 - level) / 2, (1 + level) / 2]
            few = len(columns) < FEWEST_PHOTOS
            low, high = np.quantile(spread, ends) if len(spread) and not few else (np.nan, np.nan)
            over_photos = spearman(values, scores)
            wrong_side = min((over_photos <= 0).mean(), (over_photos >= 0).mean())
            estimate = float(spearman(x[None], y[None])[0])
            without = [
                float(spearman(x[group_of != name][None], y[group_of != name][None])[0])
                for name in dict.fromkeys(group_of)
            ]
            better = MEASURES[measure].better if measure in MEASURES else ""
            least_p = np.nan if few else min(1.0, 2 * wrong_side)
            p_adjusted = np.maximum(adjusted[row], least_p)  # keeps NaN
            sure = bool(better) and len(without) >= FEWEST and p_adjusted < 1 - level
            rows.append(
                {
                    "dataset": dataset,
                    "measure": measure,
                    "spearman": estimate,
                    "low": float(low),
                    "high": float(high),
                    "by_family": float(by_family[row]),
                    "p": float(np.maximum(p[row], least_p)),
                    "p_adjusted": float(p_adjusted),
                    "least": min(without),
                    "most": max(without),
                    "variants": len(x),
                    "families": len(without),
                    "photos": len(columns),
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


def families_of(df: pd.DataFrame) -> dict[str, str]:
    """The family of each spec. Variants of one family are nearly one variant.

    Two variants are of one family if their names share the part before the first underscore (csa,
    csa_q), or if one module computes their attention (vanilla, sharpened). A family bears the name
    of its first variant.

    Returns:
        spec -> family.
    """
    configs = df.attrs.get("configs", {})
    family: dict[str, str] = {}  # by mark: the stem of a name, or a module
    families: dict[str, str] = {}
    for _, row in spec_rows(df).iterrows():
        spec = str(row["spec"])
        name = str(row["attention"]).partition("(")[0]
        marks = [f"name {name.partition('_')[0]}"]
        target = configs.get(spec, {}).get("attention._target_", row.get("attention._target_"))
        if isinstance(target, str):
            marks.append(f"module {target.rpartition('.')[0]}")
        met = list(dict.fromkeys(family[mark] for mark in marks if mark in family))
        first = met[0] if met else name
        for mark, old in list(family.items()):
            family[mark] = first if old in met else old
        families = {s: first if old in met else old for s, old in families.items()}
        family |= dict.fromkeys(marks, first)
        families[spec] = first
    return families


def over_families(
    measures: Array,
    scores: Array,
    family: npt.NDArray[np.str_],
    n: int = 2000,
    draw: np.random.Generator | None = None,
) -> tuple[Array, Array, Array]:
    """Rank correlation of the families' means, its permutation p, and p adjusted over all measures.

    The adjustment compares each p with the smallest of all measures in the same permutation
    (Westfall and Young, 1993, min-P), so measures that go together cost less than with Holm.

    Args:
        measures: (measures, variants), NaN where a measure is not defined.
        scores: (variants,). family: (variants,) names.
        n: permutations of families. draw: generator of the permutations.

    Returns:
        correlation, p, adjusted p, (measures,) each; NaN, 1, 1 where ranks are constant or fewer
        than three families have a value.
    """
    draw = np.random.default_rng(0) if draw is None else draw
    names, place = np.unique(family, return_inverse=True)
    member = (place[:, None] == np.arange(len(names))).astype(float)
    mean_scores = divide(scores @ member, member.sum(0))
    is_defined = ~np.isnan(measures)
    means = divide(np.nan_to_num(measures) @ member, is_defined.astype(float) @ member)
    orders = np.stack([np.arange(len(names)), *(draw.permutation(len(names)) for _ in range(n))])
    permuted = mean_scores[orders]
    observed, worse = np.full(len(measures), np.nan), np.full((len(measures), n + 1), 1.0)
    for row, mean in enumerate(means):
        there = ~np.isnan(mean)
        if there.sum() < 3:
            continue
        x = np.broadcast_to(mean[there], (n + 1, int(there.sum())))
        size = np.abs(spearman(x, permuted[:, there]))
        observed[row] = spearman(mean[None, there], mean_scores[None, there])[0]
        if not np.isnan(size).any():
            in_order = np.sort(np.round(size, 9))
            worse[row] = 1 - np.searchsorted(in_order, np.round(size, 9)) / (n + 1)
    smallest = np.sort(worse.min(0))
    p = worse[:, 0]
    adjusted = np.searchsorted(smallest, p, side="right") / (n + 1)
    return observed, p, np.where(p < 1, adjusted, 1.0)


def _tried(
    measured: pd.DataFrame, specs: Sequence[str], images: Collection[str]
) -> dict[str, pd.DataFrame]:
    """Map each measure that three specs or more have to its values, images x specs; no controls."""
    from sclip_lab.diagnostics import MEASURES

    met = measured["spec"].isin(specs) & measured["image"].isin(images)
    rows, tried = measured[met & measured["value"].notna()].astype({"spec": str}), {}
    for name in rows["measure"].astype(str).unique():
        grid = rows[rows["measure"] == name].pivot_table(
            index="image", columns="spec", values="value", observed=True, sort=False
        )
        is_control = name in MEASURES and MEASURES[name].is_control
        if grid.shape[1] >= 3 and not is_control:
            tried[name] = grid
    return tried


def spearman(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Rank correlation of each row of ``x``, (rows, variants), with the same row of ``y``; NaN
    where a row is constant or holds a NaN.

    Args:
        weights: (rows, variants) how often each variant counts; once by default.
    """
    if weights is None:
        from scipy import stats  # takes half a second

        ranks = [stats.rankdata(z, axis=1) for z in (x, y)]
        weights = np.ones_like(ranks[0])
    else:
        ranks = [_weighted_ranks(z, weights) for z in (x, y)]
    total = weights.sum(1, keepdims=True)
    one, two = (r - (weights * r).sum(1, keepdims=True) / total for r in ranks)
    squares = [(weights * r**2).sum(1) for r in (one, two)]
    rho = divide((weights * one * two).sum(1), np.sqrt(squares[0] * squares[1]))
    constant = (squares[0] < 1e-12) | (squares[1] < 1e-12)
    rho[constant | np.isnan(x).any(1) | np.isnan(y).any(1)] = np.nan
    return rho


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Mid-ranks of each row, as if each entry occurred as often as its weight says."""
    ranks = np.empty_like(values)
    for k in range(values.shape[1]):
        below = values < values[:, k : k + 1]
        equal = values == values[:, k : k + 1]
        ranks[:, k] = (weights * below).sum(1) + (weights * equal).sum(1) / 2
    return ranks

"""Intervals and differences by a bootstrap over images.

Every spec of a data set is resampled with the same images, so that two of them can be compared by
the difference of their resampled scores, which is far less uncertain than either score.

A class of the data set of which a resample holds no pixel says nothing there, and is left out of
that resample's mean. Counting it as 0, because it is predicted somewhere, would press the interval
below the score itself where classes are many and images few (20 photos of 133 classes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from sclip_lab.errors import LabError, unknown
from sclip_lab.results import metrics
from sclip_lab.results.scores import NAMES, STATISTICS, pixel_accuracy, spec_rows, totals_of


class Resampled(NamedTuple):
    """One spec's score, its (n,) scores on resampled images, and the codes of its images."""

    spec: str
    estimate: float
    scores: metrics.Array
    images: npt.NDArray[np.integer]


_CELLS = 2**22  # resampled image weights held at a time: 32 MiB


def bootstrap(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile intervals by resampling images with replacement.

    Args:
        df: from `load`.
        statistic: miou, pixel_accuracy or mean_accuracy.
        n: resamples. level: coverage of the interval. seed: of the resamples.

    Returns:
        Index spec, in order of appearance; columns estimate, low, high.
    """
    _check(statistic, n, level)
    found = {}
    for spec in _resample(df, statistic, n, seed):
        found[spec.spec] = (spec.estimate, *_interval(spec.scores, level))
    table = pd.DataFrame.from_dict(found, orient="index", columns=["estimate", "low", "high"])
    return table.rename_axis("spec")


def difference(
    df: pd.DataFrame,
    a: str,
    b: str,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Is ``a`` better than ``b``, and by how much: score(a) - score(b) on the same images.

    Args:
        df: from `load`.
        a, b: each a label ("csa") or a spec's key or its beginning. Labels are compared wherever
            both occur with the same backbone, data set and protocol.
        statistic, n, level, seed: as in `bootstrap`.

    Returns:
        One row per pair: a, b, backbone, dataset, protocol, difference, low, high, p (two-sided
        bootstrap p-value of "no difference", at least 2 / (n + 1)), images.

    Raises:
        LabError: for an unknown or ambiguous name, or specs seen on different images.
    """
    _check(statistic, n, level)
    table = spec_rows(df)
    pairs = _pairs(table, _select(table, a), _select(table, b), a, b)
    wanted = df[df["spec"].isin({spec for pair in pairs for spec in pair})]
    found = {spec.spec: spec for spec in _resample(wanted, statistic, n, seed)}
    facts = table.set_index("spec")
    rows = []
    for first, second in pairs:
        one, other = found[first], found[second]
        if not np.array_equal(one.images, other.images):
            raise LabError(f"'{a}' and '{b}' were not evaluated on the same images: no pairs")
        resampled = one.scores - other.scores
        tail = min(np.sum(resampled <= 0), np.sum(resampled >= 0))
        low, high = _interval(resampled, level)
        rows.append(
            {"a": facts.at[first, "attention"], "b": facts.at[second, "attention"]}
            | {name: facts.at[first, name] for name in NAMES[2:]}
            | {"difference": one.estimate - other.estimate, "low": low, "high": high}
            | {"p": min(1.0, 2 * (tail + 1) / (n + 1)), "images": len(one.images)}
        )
    table = pd.DataFrame(rows)
    table.attrs["level"] = level
    return table


def summary(df: pd.DataFrame, n: int = 2000, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """One row per spec: its columns, miou with `bootstrap` bounds, pixel_accuracy, images."""
    table = spec_rows(df)
    scores = bootstrap(df, "miou", n, level, seed).rename(columns={"estimate": "miou"})
    scores["pixel_accuracy"] = pixel_accuracy(df).to_numpy()
    images = df.groupby("spec", observed=True, sort=False)["image"].nunique()
    scores["images"] = images.to_numpy()
    scores = scores.reset_index(drop=True)
    table = pd.concat([table[NAMES], scores, table.drop(columns=NAMES)], axis=1)
    table.attrs = {**df.attrs, "level": level}
    return table


def _check(statistic: str, n: int, level: float) -> None:
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    if n < 1 or not 0 < level < 1:
        raise LabError(f"n={n}, level={level}: expected n >= 1 and 0 < level < 1")


def _interval(resampled: metrics.Array, level: float) -> tuple[float, float]:
    kept = resampled[~np.isnan(resampled)]
    if not kept.size:
        return np.nan, np.nan
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resample(df: pd.DataFrame, statistic: str, n: int, seed: int) -> Iterator[Resampled]:
    """Score every spec on n resamples.

    The resamples depend on the seed and the number of images alone, and images come in one order,
    so specs that saw the same images are resampled alike.
    """
    score = STATISTICS[statistic]
    df = df.astype({"image": "category"})
    for spec, rows in df.groupby("spec", observed=True, sort=False):
        images, position = np.unique(rows["image"].cat.codes.to_numpy(), return_inverse=True)
        totals = totals_of(rows, position, len(images))
        whole = totals.sum(0)
        flat = totals.reshape(len(images), -1)
        draw = np.random.default_rng(seed)
        chunk = max(1, _CELLS // len(images))
        scores = []
        for start in range(0, n, chunk):
            size = min(chunk, n - start)
            drawn = draw.integers(len(images), size=(size, len(images)))
            drawn += np.arange(size)[:, None] * len(images)
            weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
            resampled = (weights.astype(np.float64) @ flat).reshape(size, *totals.shape[1:])
            true, predicted = resampled[:, 1], resampled[:, 2]
            predicted[(true == 0) & (whole[1] > 0)] = 0  # a view: takes the class out of the mean
            scores.append(score(resampled))
        yield Resampled(str(spec), float(score(whole)), np.concatenate(scores), images)


def _select(table: pd.DataFrame, name: str) -> pd.DataFrame:
    by_label = table[table["attention"] == name]
    if len(by_label):
        return by_label
    by_key = table[
        [bool(name) and (s.startswith(name) or name.startswith(s)) for s in table["spec"]]
    ]
    if len(by_key) > 1:
        raise LabError(f"spec key '{name}' begins several: {', '.join(by_key['spec'])}")
    if not len(by_key):
        raise unknown("attention label or spec", name, [*table["attention"], *table["spec"]])
    return by_key


def _pairs(
    table: pd.DataFrame, left: pd.DataFrame, right: pd.DataFrame, a: str, b: str
) -> list[tuple[str, str]]:
    if len(left) == len(right) == 1:
        return [(left["spec"].iloc[0], right["spec"].iloc[0])]
    shared = left.merge(right, on=NAMES[2:], suffixes=("_a", "_b"))
    if shared.empty:
        raise LabError(f"'{a}' and '{b}' share no backbone, data set and protocol")
    if shared["spec_a"].duplicated().any() or shared["spec_b"].duplicated().any():
        known = ", ".join(table[table["spec"].isin([*left["spec"], *right["spec"]])]["spec"])
        raise LabError(f"'{a}' or '{b}' names several specs; give the keys of two ({known})")
    return list(zip(shared["spec_a"], shared["spec_b"], strict=True))

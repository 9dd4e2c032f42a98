"""Intervals of scores, and the summary of a store: one row per spec.

Every spec of a data set is resampled with the same images, so that two of them can be compared by
the difference of their scores, which is far less uncertain than either score: see
`sclip_lab.results.statistics.comparisons`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from sclip_lab.core import values
from sclip_lab.core.errors import unknown
from sclip_lab.results.statistics import floors, multiple
from sclip_lab.results.statistics.intervals import interval, p_value
from sclip_lab.results.statistics.resampling import Design, Index, Sample, Scored, score
from sclip_lab.results.table.scores import (
    NAMES,
    STATISTICS,
    check_rows,
    is_oracle,
    per_group,
    spec_rows,
    totals_of,
)
from sclip_lab.results.table.support import FEW, few_classes


def bootstrap(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores with intervals, by resampling images with replacement: `intervals.interval`.

    Args:
        df: from `load`.
        statistic: miou, pixel_accuracy or mean_accuracy.
        n: resamples. level: coverage of the interval. seed: of the resamples.

    Returns:
        Index spec, in order of appearance; columns estimate, low, high. All are NaN where a spec
        has no counted pixel; bounds also where `intervals.interval` gives none.

    Raises:
        LabError: unknown statistic, n or level out of range.
    """
    check(statistic, n, level, seed)
    bounds = {}
    for group in resampled(df, statistic, n, seed):
        for spec, scored in group.items():
            bounds[spec] = (scored.estimate, *interval(scored, level))
    table = pd.DataFrame.from_dict(bounds, orient="index", columns=["estimate", "low", "high"])
    return table.loc[[str(spec) for spec in df["spec"].unique()]].rename_axis("spec")


def summary(
    df: pd.DataFrame,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    groups: Iterable[Mapping[str, Scored]] | None = None,
) -> pd.DataFrame:
    """One row per spec: what it is, how well it scores, and how sure that is.

    Args:
        df: from `load`.
        n, level, seed: as in `bootstrap`.
        groups: what `resampled` yields for ``df``, if it was called already.

    Returns:
        Columns spec, attention, backbone, dataset, protocol; miou, low, high (`bootstrap`);
        unbeaten (`not_beaten`); pixel_accuracy; images (evaluated); oracle (True where the spec
        read ground truth: it is never unbeaten); of (how many images the data set has);
        few_classes (how many classes are on at least one, but fewer than 50 of the images); and
        the config values that differ.
        ``attrs``: level, and floors {data set: {name: score}}, see `floors.floors`.
    """
    check("miou", n, level, seed)
    facts = {}
    for group in resampled(df, "miou", n, seed) if groups is None else groups:
        oracles = df.attrs.get("oracles", ())  # after `resampled` has checked that df has attrs
        ranked = {spec: scored for spec, scored in group.items() if spec not in oracles}
        unbeaten = dict(zip(ranked, not_beaten(list(ranked.values()), level), strict=True))
        for spec, scored in group.items():
            facts[spec] = (scored.estimate, *interval(scored, level), unbeaten.get(spec, False))
    table = spec_rows(df)
    rows = [facts[spec] for spec in table["spec"]]
    scores = pd.DataFrame(rows, columns=["miou", "low", "high", "unbeaten"])
    scores["pixel_accuracy"] = per_group(df, "spec", "pixel_accuracy").to_numpy()
    images = df.groupby("spec", observed=True, sort=False)["image"].nunique()
    scores["images"] = images.to_numpy()
    scores["oracle"] = is_oracle(table).to_numpy()
    sizes = df.attrs.get("of", {})
    scores["of"] = [sizes.get(spec, count) for spec, count in images.items()]
    scores["few_classes"] = few_classes(df, FEW).to_numpy()
    table = pd.concat([table[NAMES], scores, table.drop(columns=NAMES)], axis=1)
    lowest = floors.of_checked(df)
    by_name = {str(dataset): dict(zip(rows["floor"], rows["score"], strict=True))
               for dataset, rows in lowest.groupby("dataset")}  # fmt: skip
    table.attrs = {**df.attrs, "level": level, "floors": by_name}
    return table


def not_beaten(scores: list[Scored], level: float = 0.95) -> list[bool]:
    """True for scores that are not significantly below the highest; False for NaN.

    The data choose which score is the highest, so p is adjusted by Holm over all pairs, not only
    over the pairs with the highest.
    """
    estimates = np.array([scored.estimate for scored in scores])
    order = [k for k in np.argsort(-estimates, kind="stable") if not np.isnan(estimates[k])]
    if not order:
        return [False] * len(scores)
    pairs = list(itertools.combinations(order, 2))  # pairs with the highest come first
    adjusted = multiple.holm([p_value(scores[a] - scores[b]) for a, b in pairs])
    # On fewer than FEWEST_PHOTOS photos p is NaN, and nothing is beaten.
    beaten = {b for (_, b), p in zip(pairs[: len(order) - 1], adjusted, strict=False)
              if p < 1 - level}  # fmt: skip
    return [k in order and k not in beaten for k in range(len(scores))]


def check(statistic: str, n: int, level: float, seed: int) -> None:
    """Raise LabError for an unknown statistic, n below 1, a level outside of 0 .. 1, or a seed
    below 0."""
    if statistic not in list(STATISTICS):
        raise unknown("statistic", statistic, STATISTICS)
    for name, value, kind in (("n", n, int), ("level", level, float), ("seed", seed, int)):
        values.check(name, value.item() if isinstance(value, np.generic) else value, kind)
    values.within("n", n, 1)
    values.within("level", level, 0, 1, above=True, below=True)
    values.within("seed", seed, 0)


def resampled(df: pd.DataFrame, statistic: str, n: int, seed: int) -> Iterator[dict[str, Scored]]:
    """Score specs on n resamples; yield {spec: score} for each set of photos (`photo_sets`)."""
    groups: dict[int, dict[str, Sample]] = {}
    number = photo_sets(df)
    for spec, _, _, sample in samples(df):
        groups.setdefault(number[spec], {})[spec] = sample
    for group in groups.values():
        design = Design.plain(len(next(iter(group.values())).photos), n, seed)
        yield dict(zip(group, score(list(group.values()), design, statistic), strict=True))


def photo_sets(df: pd.DataFrame) -> dict[str, int]:
    """Number the sets of photos that specs were evaluated on, in order of appearance.

    Two specs can be compared in pairs where their numbers agree: same data set, same digest of
    its photos and masks, and rows of the same images. Equal image names alone do not make two
    splits the same photos.

    Returns:
        spec -> number, from 0.
    """
    check_rows(df)
    configs = df.attrs.get("configs", {})
    numbers: dict[tuple[str, str, bytes], int] = {}
    sets = {}
    for spec, rows in df.astype({"image": "category"}).groupby("spec", observed=True, sort=False):
        digest = str(configs.get(str(spec), {}).get("dataset.digest", ""))
        images = np.unique(rows["image"].cat.codes.to_numpy()).tobytes()
        photos = (str(rows["dataset"].iloc[0]), digest, images)
        sets[str(spec)] = numbers.setdefault(photos, len(numbers))
    return sets


def samples(df: pd.DataFrame) -> Iterator[tuple[str, str, Index, Sample]]:
    """For each spec yield its key, its data set, the sorted category codes of its images, and its
    counts per image in that order. Photos without a counted pixel measure nothing: they are left
    out, unless the spec has no others."""
    df = df.astype({"image": "category"})
    for spec, rows in df.groupby("spec", observed=True, sort=False):
        images, position = np.unique(rows["image"].cat.codes.to_numpy(), return_inverse=True)
        totals = totals_of(rows, position, len(images))
        counted = totals[:, 1].any(axis=1)
        if counted.any():
            images, totals = images[counted], totals[counted]
        dataset = str(rows["dataset"].iloc[0])
        yield str(spec), dataset, images, Sample(totals, np.arange(len(images)))

"""Several data sets together: mean scores over them, and each variant's rank on each.

Data sets of one group of `COLLECTIONS` share photos: images of one name are one photo, which a
resample draws for all its data sets or for none. A stratum holds the photos that belong to the same
data sets; photos are resampled within strata, so that every data set keeps its size. Outside these
groups equal file names mean nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.results.statistics import multiple
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS, interval, p_value
from sclip_lab.results.statistics.permutation import permutation_p
from sclip_lab.results.statistics.resampling import Design, Sample, Scored, score
from sclip_lab.results.statistics.uncertainty import check, not_beaten, photo_sets, samples
from sclip_lab.results.table.choices import Choice, choose, names
from sclip_lab.results.table.scores import methods_only, spec_rows

VARIANT = ["attention", "backbone", "protocol"]
COLLECTIONS = (
    ("voc20", "voc21", "context59", "context60"),  # Context annotates photos of VOC 2010
    ("coco_object", "coco_object_val2017", "coco_stuff10k", "coco_stuff164k", "coco_panoptic20"),
)
Shared = Collection[Collection[str]]


class Together:
    """Variants that were evaluated on all data sets of a results DataFrame.

    A variant is a label, a backbone and a protocol, and the configuration values in which specs
    with the same three differ on one data set. A value that a protocol sets for each data set (a
    threshold, a scale) makes no new variant.

    Args:
        df: from `results.load`.
        statistic, n, seed: as in `results.bootstrap`.
        apart: data sets that share no photo with any other, whatever `COLLECTIONS` says.
        shared: further groups of data sets in which images of one name are one photo.

    Attributes:
        table: one row per variant: attention, backbone, protocol, and values that tell it apart.
        datasets: names. left_out: labels of variants that were not evaluated on all data sets.
        samples: for each variant, its counts on each data set. scores: the same, scored.
        design: how the photos of all data sets are drawn.

    Raises:
        LabError: an unknown data set in ``apart`` or ``shared``; two specs of one variant on one
            data set; different numbers of images on one data set; no variant has all data sets.
    """

    def __init__(
        self,
        df: pd.DataFrame,
        statistic: str = "miou",
        n: int = 2000,
        seed: int = 0,
        apart: Collection[str] = (),
        shared: Shared = (),
    ) -> None:
        photo_set = photo_sets(df)
        df = methods_only(df)
        self.datasets = [str(name) for name in df["dataset"].unique()]
        for name in (*apart, *(name for group in shared for name in group)):
            if name not in self.datasets:
                raise unknown("data set", name, self.datasets)
        specs = spec_rows(df)
        distinct = [*VARIANT, *_distinguishing(specs)]
        specs["variant"] = specs.groupby(distinct, dropna=False, observed=True, sort=False).ngroup()
        df = df.astype({"image": "category"})
        all_of_it = list(samples(df))
        counts = {spec: sample for spec, _, _, sample in all_of_it}
        names = df["image"].cat.categories.astype(str).to_numpy()
        images = {dataset: names[codes] for _, dataset, codes, _ in reversed(all_of_it)}
        common_set = {dataset: photo_set[spec] for spec, dataset, _, _ in reversed(all_of_it)}
        places, self.design = _design(images, n, seed, self._collections(apart, shared))
        rows, self.samples, self.left_out = [], [], []
        for _, members in specs.groupby("variant", sort=False):
            by_dataset = {str(row["dataset"]): str(row["spec"]) for _, row in members.iterrows()}
            label = str(members["attention"].iloc[0])
            if len(by_dataset) < len(members):
                raise LabError(
                    f"'{label}' has several specs on one data set, and no configuration value "
                    "tells them apart"
                )
            if set(by_dataset) < set(self.datasets):
                self.left_out.append(label)
                continue
            for dataset, spec in by_dataset.items():
                if photo_set[spec] != common_set[dataset]:
                    raise LabError(
                        f"specs of data set '{dataset}' were evaluated on different images"
                    )
            rows.append(members[distinct].iloc[0])
            self.samples.append(
                [Sample(counts[by_dataset[d]].totals, places[d]) for d in self.datasets]
            )
        if not rows:
            raise LabError(f"no variant was evaluated on all of {', '.join(self.datasets)}")
        self.table = pd.DataFrame(rows).reset_index(drop=True)
        flat = score([s for row in self.samples for s in row], self.design, statistic)
        width = len(self.datasets)
        self.scores = [flat[k : k + width] for k in range(0, len(flat), width)]

    def _collections(self, apart: Collection[str], shared: Shared) -> dict[str, str]:
        """Map each data set to the first one that shares photos with it, or to itself."""
        collection = {name: name for name in self.datasets}
        for group in (*COLLECTIONS, *shared):
            together = [name for name in self.datasets if name in group and name not in apart]
            joined = {collection[name] for name in together}
            for name in self.datasets:
                if collection[name] in joined:
                    collection[name] = collection[together[0]]
        return collection

    @property
    def means(self) -> list[Scored]:
        """For each variant, its mean score over data sets."""
        return [Scored.mean(row) for row in self.scores]

    def attrs(self, level: float) -> dict[Any, Any]:
        return {"level": level, "datasets": self.datasets, "left_out": self.left_out}


def mean_over_datasets(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    apart: Collection[str] = (),
    shared: Shared = (),
) -> pd.DataFrame:
    """Average each variant's score over data sets, with an interval.

    Args:
        df, statistic, n, seed, apart, shared: see `Together`. level: of the interval.

    Returns:
        One row per variant: attention, backbone, protocol, values that tell it apart; mean, low,
        high, unbeaten (see `results.summary`), datasets (how many), photos (each counted once), and
        a column per data set with the score. ``attrs``: level, datasets, left_out (see `Together`).
    """
    check(statistic, n, level, seed)
    all_of = Together(df, statistic, n, seed, apart, shared)
    bounds = [interval(mean, level) for mean in all_of.means]
    table = all_of.table.assign(
        mean=[mean.estimate for mean in all_of.means],
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
        unbeaten=not_beaten(all_of.means, level),
        datasets=len(all_of.datasets),
        photos=len(all_of.design.strata),
    )
    for k, dataset in enumerate(all_of.datasets):
        table[dataset] = [row[k].estimate for row in all_of.scores]
    table.attrs = all_of.attrs(level)
    return table


def mean_differences(
    df: pd.DataFrame,
    baseline: Choice = "vanilla",
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    apart: Collection[str] = (),
    shared: Shared = (),
) -> pd.DataFrame:
    """Compare every variant's mean over data sets with that of a baseline.

    Args:
        baseline: a choice that names one variant, see `sclip_lab.results.table.choices`.
        df, statistic, n, level, seed, apart, shared: as in `mean_over_datasets`.

    Returns:
        One row per other variant: a, b, difference, low, high, p, p_permutation (a photo is
        swapped in all its data sets), p_holm, p_max_t, datasets, photos.

    Raises:
        LabError: a baseline that is unknown or names several variants; no other variant.
    """
    check(statistic, n, level, seed)
    all_of = Together(df, statistic, n, seed, apart, shared)
    # `choose` wants the columns of a table of specs; a variant has no key of its own.
    table = all_of.table.assign(spec=[f"{k}" for k in range(len(all_of.table))], dataset="all")
    chosen = choose(table, baseline).rows
    if len(chosen) != 1:
        raise LabError(f"baseline {baseline} names {len(chosen)} variants; name one of them")
    start = int(chosen.index[0])
    photos, means, rows, gaps = len(all_of.design.strata), all_of.means, [], []
    for k in range(len(table)):
        if k == start:
            continue
        gap = means[k] - means[start]
        gaps.append(gap)
        a, b = names(table.iloc[k], table.iloc[start])
        low, high = interval(gap, level)
        pairs = list(zip(all_of.samples[k], all_of.samples[start], strict=True))
        swapped = permutation_p(pairs, photos, statistic, n, seed)
        row = {"a": a, "b": b, "difference": gap.estimate, "low": low, "high": high}
        rows.append(row | {"p": p_value(gap), "p_permutation": swapped})
    if not rows:
        raise LabError(f"nothing to compare with {baseline}: no other variant")
    compared = pd.DataFrame(rows)
    compared["p_holm"] = multiple.holm(compared["p"].to_numpy())
    compared["p_max_t"] = multiple.max_t(gaps)
    compared = compared.assign(datasets=len(all_of.datasets), photos=photos)
    compared.attrs = all_of.attrs(level)
    return compared


def ranks(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    apart: Collection[str] = (),
    shared: Shared = (),
) -> pd.DataFrame:
    """Rank the variants on each data set, for a picture.

    No test is made: five benchmarks that do not share photos are too few for a test over data
    sets (even if one variant wins on all five, a sign test has p = 0.06).

    Returns:
        One row per variant and data set: the variant's columns, dataset, score, rank (1 is best,
        equal scores share their mean place), low, high (quantiles of the rank on resampled
        photos; NaN on fewer than `FEWEST_PHOTOS`), mean_rank (over data sets). ``attrs``:
        level, datasets, left_out.
    """
    check(statistic, n, level, seed)
    all_of = Together(df, statistic, n, seed, apart, shared)
    tables = []
    for k, dataset in enumerate(all_of.datasets):
        estimates = pd.Series([row[k].estimate for row in all_of.scores])
        resampled = np.stack([row[k].resampled for row in all_of.scores], axis=1)
        places = pd.DataFrame(-resampled).dropna().rank(axis=1)
        low = high = np.full(places.shape[1], np.nan)
        if len(places) and len(all_of.samples[0][k].photos) >= FEWEST_PHOTOS:
            low, high = np.quantile(places, [(1 - level) / 2, (1 + level) / 2], axis=0)
        tables.append(
            all_of.table.assign(
                dataset=dataset, score=estimates, rank=(-estimates).rank(), low=low, high=high
            )
        )
    table = pd.concat(tables, ignore_index=True)
    mean_ranks = table["rank"].to_numpy().reshape(len(tables), -1).mean(0)
    table["mean_rank"] = np.tile(mean_ranks, len(tables))
    table.attrs = all_of.attrs(level)
    return table


def _distinguishing(specs: pd.DataFrame) -> list[str]:
    """Configuration columns in which specs of equal `VARIANT` columns differ on one data set."""
    groups = specs.groupby([*VARIANT, "dataset"], observed=True, sort=False)
    columns = [c for c in map(str, specs) if c.startswith(tuple(f"{v}." for v in VARIANT))]
    return [c for c in columns if (groups[c].nunique(dropna=False) > 1).any()]


def _design(
    images: dict[str, np.ndarray], n: int, seed: int, collection: dict[str, str]
) -> tuple[dict[str, np.ndarray], Design]:
    """Return each data set's images as indices into all photos, and how the photos are drawn."""
    rows = pd.DataFrame(
        [(collection[d], str(name), d) for d, names in images.items() for name in names],
        columns=["collection", "name", "dataset"],
    )
    photo = rows.groupby(["collection", "name"], sort=False).ngroup()
    strata = pd.factorize(rows.groupby(photo)["dataset"].agg("\0".join))[0]
    places = {d: photo[rows["dataset"] == d].to_numpy() for d in images}
    return places, Design(strata, n, seed)

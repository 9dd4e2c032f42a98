"""Differences between specs, whatever varies: attention, backbone, protocol, readout, a parameter.

Two specs are compared on the same images; `sclip_lab.results.table.choices` says how a caller names
specs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics import floors, multiple
from sclip_lab.results.statistics.intervals import interval, p_value
from sclip_lab.results.statistics.permutation import permutation_p
from sclip_lab.results.statistics.resampling import Sample, Scored, score
from sclip_lab.results.statistics.uncertainty import check, photo_sets, resampled
from sclip_lab.results.store import machines
from sclip_lab.results.table.choices import (
    GROUPS,
    Choice,
    Chosen,
    choose,
    described,
    keys_of,
    names,
    said,
)
from sclip_lab.results.table.metrics import Array
from sclip_lab.results.table.scores import spec_rows

Pair = tuple[str, str]  # of specs


def difference(
    df: pd.DataFrame,
    a: Choice,
    b: Choice,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Is ``a`` better than ``b``, and by how much: score(a) - score(b) on the same images.

    Args:
        df: from `load`.
        a, b: see `choices`. A spec that ``a`` names is compared with each that ``b`` names and
            that is equal in everything else.
        statistic, n, level, seed: as in `bootstrap`.

    Returns:
        One row per pair: a, b (what tells them apart), spec_a, spec_b, backbone, dataset,
        protocol ("x, y" where they differ), difference, low, high (`intervals.interval`), p
        (`intervals.p_value`, two-sided), p_permutation (`permutation_p`), images. Where a score is
        NaN, difference, bounds and both p are; on fewer than `intervals.FEWEST_PHOTOS` photos low,
        high and p are NaN. p_permutation is exact on any number of photos.

    Raises:
        LabError: for an unknown or ambiguous name, or specs seen on different images.
    """
    check(statistic, n, level, seed)
    photos, table = photo_sets(df), spec_rows(df)
    pairs = _pairs(table, choose(table, a), choose(table, b), a, b, photos)
    return _compared(df, pairs, statistic, n, seed).of(pairs, level, permuted=True)


def differences(
    df: pd.DataFrame,
    baseline: Choice = "vanilla",
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every spec with its baseline: the spec that ``baseline`` names, on the same photos,
    with everything else equal.

    Args:
        as in `difference`; baseline: see `choices`.

    Returns:
        The columns of `difference`, then p_holm (p adjusted for all differences of one data set)
        and p_max_t (for all on the same photos), see `multiple`. ``attrs["left_out"]`` lists the
        specs that have no baseline.

    Raises:
        LabError: an unknown baseline, several baselines for one spec, or nothing to compare.
    """
    check(statistic, n, level, seed)
    pairs, left_out = with_baseline(df, baseline)
    comparisons = _compared(df, pairs, statistic, n, seed)
    compared = comparisons.of(pairs, level, permuted=True)
    by = compared.groupby("dataset", sort=False)["p"]
    compared["p_holm"] = by.transform(lambda p: multiple.holm(p.to_numpy()))
    # Max-T needs shared resamples, which only specs of the same photos have.
    for group in comparisons.groups:
        is_of_group = compared["spec_a"].isin(group)
        gaps = [comparisons.gap(*pair) for pair in pairs if pair[0] in group]
        compared.loc[is_of_group, "p_max_t"] = multiple.max_t(gaps)
    compared.attrs["left_out"] = left_out
    return compared


def with_baseline(df: pd.DataFrame, baseline: Choice) -> tuple[list[Pair], list[str]]:
    """The pairs (spec, its baseline) of `differences`, and the specs that have no baseline."""
    photos, table = photo_sets(df), spec_rows(df)
    chosen = choose(table, baseline)
    fixed = [c for c in described(table) if c not in chosen.free]
    others = table[~table["spec"].isin(chosen.rows["spec"])]
    pairs, left_out = [], []
    for spec, starts in _partners(others, chosen.rows, fixed, photos).items():
        if len(starts) > 1:
            raise LabError(
                f"baseline {said(baseline)} is {len(starts)} specs ({', '.join(starts)}) that "
                f"{spec} could be compared with; name what tells them apart"
            )
        pairs += [(spec, start) for start in starts]
        left_out += [] if starts else [spec]
    if not pairs:
        raise LabError(
            f"nothing to compare with {said(baseline)}: no other spec was evaluated on the same "
            f"photos and is equal in {', '.join(fixed)}"
        )
    return pairs, left_out


def all_pairs(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every two specs that were evaluated on the same images of a data set.

    Returns:
        The columns of `difference` without p_permutation, and p_bh: p adjusted after Benjamini and
        Hochberg for all pairs of the data set. Column ``a`` has the spec with the higher score.

    Raises:
        LabError: no two specs were evaluated on the same images.
    """
    check(statistic, n, level, seed)
    comparisons = Comparisons(df, statistic, n, seed)
    pairs = []
    for group in comparisons.groups:
        ranked = sorted(group, key=lambda spec: -group[spec].estimate)
        pairs += list(itertools.combinations(ranked, 2))
    if not pairs:
        raise LabError("no two specs of one data set were evaluated on the same images")
    compared = comparisons.of(pairs, level)
    by = compared.groupby("dataset", sort=False)["p"]
    compared["p_bh"] = by.transform(lambda p: multiple.benjamini_hochberg(p.to_numpy()))
    return compared


class Comparisons:
    """Differences between any two specs, by one bootstrap of all; arguments as in `bootstrap`.

    Attributes:
        groups: for each set of photos {spec: score}; all specs of a group share resamples.
    """

    def __init__(
        self, df: pd.DataFrame, statistic: str = "miou", n: int = 2000, seed: int = 0
    ) -> None:
        self.df, self.statistic, self.n, self.seed = df, statistic, n, seed
        self.groups = list(resampled(df, statistic, n, seed))
        self._group = {spec: g for g, group in enumerate(self.groups) for spec in group}
        self._scored = {spec: group[spec] for group in self.groups for spec in group}
        self._counts: dict[str, str] = {}
        self._floors: dict[str, tuple[str, Scored]] = {}
        self._facts = {str(row["spec"]): row for _, row in spec_rows(df).iterrows()}

    def gap(self, a: str, b: str) -> Scored:
        """score(a) - score(b) of two specs that were evaluated on the same photos."""
        return self._scored[a] - self._scored[b]

    def photos(self, spec: str) -> int:
        """The number of photos with counted pixels that a spec's score rests on."""
        return len(self._sample(spec).photos)

    def _sample(self, spec: str) -> Sample:
        sample = self._scored[spec].sample
        assert sample is not None
        return sample

    def counts(self, spec: str) -> str:
        """A digest of a spec's counts; two specs with the same counts on every photo share it."""
        if spec not in self._counts:
            self._counts[spec] = self._digest(spec, self._sample(spec).totals)
        return self._counts[spec]

    def _digest(self, spec: str, totals: Array) -> str:
        return f"{self._group[spec]}-{hashlib.sha256(totals.tobytes()).hexdigest()[:16]}"

    def above_floor(self, spec: str) -> tuple[str, float, float]:
        """The highest of `floors.totals` on a spec's photos: its name, its score, and the two-sided
        p of its difference from the spec's score; p is 1 unless the spec scores higher."""
        scored, sample = self._scored[spec], self._sample(spec)
        true = sample.totals[:, 1]
        key = self._digest(spec, true)
        if key not in self._floors:
            lowest = floors.totals(true)
            samples = [Sample(totals, sample.photos) for totals in lowest.values()]
            floor_scores = score(samples, scored.design, self.statistic)
            self._floors[key] = max(
                zip(lowest, floor_scores, strict=True), key=lambda floor: floor[1].estimate
            )
        name, floor = self._floors[key]
        gap = scored - floor
        return name, floor.estimate, p_value(gap) if gap.estimate > 0 else 1.0

    def only(self, specs: Collection[str]) -> list[dict[str, Scored]]:
        """`groups` with these specs alone; groups without any of them are dropped."""
        groups = [{s: x for s, x in group.items() if s in specs} for group in self.groups]
        return [group for group in groups if group]

    def of(
        self, pairs: Sequence[Pair], level: float = 0.95, *, permuted: bool = False
    ) -> pd.DataFrame:
        """One row of `difference` per pair, with p_permutation only if ``permuted``.

        Raises:
            LabError: the specs of a pair were evaluated on different images.
        """
        machines.warn(self.df, {spec for pair in pairs for spec in pair})
        rows = []
        for first, second in pairs:
            one, two = self._facts[first], self._facts[second]
            a, b = names(one, two)
            if self._group[first] != self._group[second]:
                raise LabError(
                    f"'{a}' ({first}) and '{b}' ({second}) were not evaluated on the same photos "
                    "of one data set, so they cannot be compared in pairs"
                )
            gap = self.gap(first, second)
            low, high = interval(gap, level)
            row: dict[str, Any] = {"a": a, "b": b, "spec_a": first, "spec_b": second}
            for column in GROUPS[1:]:
                row[column] = ", ".join(dict.fromkeys([str(one[column]), str(two[column])]))
            row |= {"difference": gap.estimate, "low": low, "high": high, "p": p_value(gap)}
            images = self.photos(first)
            if permuted:
                both = [(self._sample(first), self._sample(second))]
                row["p_permutation"] = permutation_p(
                    both, images, self.statistic, self.n, self.seed
                )
            rows.append(row | {"images": images})
        compared = pd.DataFrame(rows)
        compared.attrs["level"] = level
        return compared


def _compared(
    df: pd.DataFrame, pairs: Sequence[Pair], statistic: str, n: int, seed: int
) -> Comparisons:
    """`Comparisons` of the specs in ``pairs`` alone."""
    rows = df[df["spec"].isin({spec for pair in pairs for spec in pair})]
    return Comparisons(rows, statistic, n, seed)


def _partners(
    rows: pd.DataFrame, others: pd.DataFrame, fixed: Sequence[str], photos: Mapping[str, int]
) -> dict[str, list[str]]:
    """Map each spec of ``rows`` to the specs of ``others`` that were evaluated on the same photos
    and are equal in the columns ``fixed``."""
    by_key: dict[tuple[Any, ...], list[str]] = {}
    for spec, key in zip(others["spec"], keys_of(others, fixed), strict=True):
        by_key.setdefault((photos[spec], *key), []).append(spec)
    return {
        spec: by_key.get((photos[spec], *key), [])
        for spec, key in zip(rows["spec"], keys_of(rows, fixed), strict=True)
    }


def _pairs(
    table: pd.DataFrame, left: Chosen, right: Chosen, a: Choice, b: Choice, photos: dict[str, int]
) -> list[Pair]:
    if len(left.rows) == len(right.rows) == 1:
        return [(left.rows["spec"].iloc[0], right.rows["spec"].iloc[0])]
    fixed = [c for c in described(table) if c not in left.free | right.free]
    partners = _partners(left.rows, right.rows, fixed, photos)
    pairs = [(spec, other) for spec in partners for other in partners[spec] if other != spec]
    if not pairs:
        raise LabError(
            f"{said(a)} and {said(b)} have no two specs that were evaluated on the same photos and "
            f"are equal in {', '.join(fixed)}"
        )
    if any(len({p[side] for p in pairs}) < len(pairs) for side in (0, 1)):
        keys = ", ".join(dict.fromkeys([*left.rows["spec"], *right.rows["spec"]]))
        raise LabError(f"{said(a)} or {said(b)} names several specs; give the keys of two ({keys})")
    return pairs

"""Differences between specs, whatever varies: attention, backbone, protocol, readout, a parameter.

Two specs are compared on the same images; `sclip_lab.results.table.choices` says how they are
named.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics import floors, multiple
from sclip_lab.results.statistics.intervals import interval, p_value
from sclip_lab.results.statistics.permutation import permutation_p
from sclip_lab.results.statistics.resampling import Sample, Scored, score
from sclip_lab.results.statistics.uncertainty import Resampled, check, photo_sets, resampled
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
from sclip_lab.results.table.scores import spec_rows

__all__ = ["Choice", "Comparisons", "all_pairs", "difference", "differences"]


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
        a, b: see `choices`. They are compared wherever both occur with everything else
            equal.
        statistic, n, level, seed: as in `bootstrap`.

    Returns:
        One row per pair: a, b (what tells them apart), spec_a, spec_b, backbone, dataset,
        protocol ("x, y" where they differ), difference, low, high (`intervals.corrected`), p
        (two-sided, of the same), p_permutation (`permutation_p`), images. NaN where a score is;
        low, high and p also on fewer than `intervals.FEWEST_PHOTOS` photos, and the bounds where
        `intervals.interval` gives none. p_permutation is exact on any number of photos.

    Raises:
        LabError: for an unknown or ambiguous name, or specs seen on different images.
    """
    check(statistic, n, level)
    table = spec_rows(df)
    pairs = _pairs(table, choose(table, a), choose(table, b), a, b, photo_sets(df))
    return Comparisons(_only(df, pairs), statistic, n, seed).of(pairs, level, permuted=True)


def differences(
    df: pd.DataFrame,
    baseline: Choice = "vanilla",
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every spec against its baseline: the spec that the choice names, on the same photos, with
    everything else equal.

    Args:
        df: from `load`.
        baseline: see `choices`.
        statistic, n, level, seed: as in `bootstrap`.

    Returns:
        The columns of `difference`, then p_holm and p_max_t: p adjusted for all differences of
        one data set, see `sclip_lab.results.statistics.multiple`.
        ``attrs["left_out"]`` lists the specs that
        have no baseline.

    Raises:
        LabError: an unknown baseline, one that several specs are, or nothing to compare with it.
    """
    check(statistic, n, level)
    table, photos = spec_rows(df), photo_sets(df)
    chosen = choose(table, baseline)
    fixed = [c for c in described(table) if c not in chosen.free]
    starts: dict[tuple[Any, ...], list[str]] = {}
    for spec, key in zip(chosen.rows["spec"], keys_of(chosen.rows, fixed), strict=True):
        starts.setdefault((photos[str(spec)], *key), []).append(str(spec))
    pairs, left_out = [], []
    others = table[~table["spec"].isin(chosen.rows["spec"])]
    for spec, key in zip(others["spec"], keys_of(others, fixed), strict=True):
        matches = starts.get((photos[str(spec)], *key), [])
        if len(matches) > 1:
            raise LabError(
                f"baseline {said(baseline)} is {len(matches)} specs ({', '.join(matches)}) that "
                f"{spec} could be compared with; name what tells them apart"
            )
        pairs += [(str(spec), start) for start in matches]
        left_out += [] if matches else [str(spec)]
    if not pairs:
        raise LabError(
            f"nothing to compare with {said(baseline)}: no other spec was evaluated on the same "
            f"photos and is equal in {', '.join(fixed)}"
        )
    comparisons = Comparisons(_only(df, pairs), statistic, n, seed)
    compared = comparisons.of(pairs, level, permuted=True, family=True)
    compared.attrs["left_out"] = left_out
    return compared


def all_pairs(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every pair of specs of a data set that were evaluated on the same images.

    Returns:
        The columns of `difference` but p_permutation, and p_bh: p adjusted after Benjamini and
        Hochberg for all pairs of the data set. The better one is ``a``.

    Raises:
        LabError: no two specs of the same images.
    """
    check(statistic, n, level)
    comparisons = Comparisons(df, statistic, n, seed)
    pairs = []
    for group in comparisons.groups:
        order = sorted(range(len(group.specs)), key=lambda k: -group.scores[k].estimate)
        ranked = [group.specs[k] for k in order]
        pairs += list(itertools.combinations(ranked, 2))
    if not pairs:
        raise LabError("no two specs of one data set were evaluated on the same images")
    compared = comparisons.of(pairs, level)
    by = compared.groupby("dataset", sort=False)["p"]
    compared["p_bh"] = by.transform(lambda p: multiple.benjamini_hochberg(p.to_numpy()))
    return compared


class Comparisons:
    """Differences between any two specs, by one bootstrap of all.

    Args:
        df: from `load`.
        statistic, n, seed: as in `bootstrap`.

    Attributes:
        groups: the specs of the same images, scored on the same resamples.
    """

    def __init__(
        self, df: pd.DataFrame, statistic: str = "miou", n: int = 2000, seed: int = 0
    ) -> None:
        self.df, self.statistic, self.n, self.seed = df, statistic, n, seed
        self.groups = list(resampled(df, statistic, n, seed))
        self._place = {spec: (g, k) for g, group in enumerate(self.groups)
                       for k, spec in enumerate(group.specs)}  # fmt: skip
        self._counts: dict[str, str] = {}
        self._floors: dict[str, tuple[str, Scored]] = {}
        self._facts = {str(row["spec"]): row for _, row in spec_rows(df).iterrows()}

    def gap(self, a: str, b: str) -> Scored:
        """The difference of two specs of the same photos."""
        (g, k), (_, m) = self._place[a], self._place[b]
        return self.groups[g].scores[k] - self.groups[g].scores[m]

    def photos(self, spec: str) -> int:
        """How many photos with counted pixels a spec's score rests on."""
        g, k = self._place[spec]
        return len(self.groups[g].samples[k].photos)

    def counts(self, spec: str) -> str:
        """A digest of a spec's counts on every photo: equal for specs that cannot differ."""
        if spec not in self._counts:
            g, k = self._place[spec]
            totals = self.groups[g].samples[k].totals
            self._counts[spec] = f"{g}-{hashlib.sha256(totals.tobytes()).hexdigest()[:16]}"
        return self._counts[spec]

    def above_floor(self, spec: str) -> tuple[str, float, float]:
        """The highest of `floors.totals` on a spec's photos: name, score, and two-sided p of the
        spec's difference from it, 1 where the spec scores less."""
        g, k = self._place[spec]
        sample, design = self.groups[g].samples[k], self.groups[g].scores[k].design
        key = f"{g}-{hashlib.sha256(sample.totals[:, 1].tobytes()).hexdigest()}"
        if key not in self._floors:
            made = floors.totals(sample.totals[:, 1])
            scored = score([Sample(t, sample.photos) for t in made.values()], design,
                           self.statistic)  # fmt: skip
            self._floors[key] = max(
                zip(made, scored, strict=True), key=lambda floor: floor[1].estimate
            )
        name, floor = self._floors[key]
        gap = self.groups[g].scores[k] - floor
        return name, floor.estimate, p_value(gap) if gap.estimate > 0 else 1.0

    def only(self, specs: Collection[str]) -> list[Resampled]:
        """The groups without all other specs."""
        groups = []
        for group in self.groups:
            rows = [row for row in zip(*group, strict=True) if row[0] in specs]
            if rows:
                names, scores, samples = (list(column) for column in zip(*rows, strict=True))
                groups.append(Resampled(names, scores, samples))
        return groups

    def of(
        self,
        pairs: Sequence[tuple[str, str]],
        level: float = 0.95,
        *,
        permuted: bool = False,
        family: bool = False,
    ) -> pd.DataFrame:
        """The rows of `difference`, without p_permutation unless ``permuted``; with p_holm and
        p_max_t over all of them for a ``family``.

        Raises:
            LabError: two specs that were seen on different images.
        """
        machines.warn(self.df, {spec for pair in pairs for spec in pair})
        rows, gaps = [], []
        for first, second in pairs:
            (g, k), (other, m) = self._place[first], self._place[second]
            one, two = self._facts[first], self._facts[second]
            a, b = names(one, two)
            if g != other:
                raise LabError(
                    f"'{a}' ({first}) and '{b}' ({second}) were not evaluated on the same photos "
                    "of one data set, so they cannot be compared in pairs"
                )
            group = self.groups[g]
            gap = group.scores[k] - group.scores[m]
            gaps.append((g, gap))
            low, high = interval(gap, level)
            row: dict[str, Any] = {"a": a, "b": b, "spec_a": first, "spec_b": second}
            for column in GROUPS[1:]:
                row[column] = ", ".join(dict.fromkeys([str(one[column]), str(two[column])]))
            row |= {"difference": gap.estimate, "low": low, "high": high, "p": p_value(gap)}
            images = len(group.samples[k].photos)
            if permuted:
                both = [(group.samples[k], group.samples[m])]
                row["p_permutation"] = permutation_p(
                    both, images, self.statistic, self.n, self.seed
                )
            rows.append(row | {"images": images})
        compared = pd.DataFrame(rows)
        if family:
            compared["p_holm"], compared["p_max_t"] = _families(compared, gaps)
        compared.attrs["level"] = level
        return compared


def _only(df: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    rows = df[df["spec"].isin({spec for pair in pairs for spec in pair})]
    rows.attrs = df.attrs
    return rows


def _families(
    compared: pd.DataFrame, gaps: Sequence[tuple[int, Scored]]
) -> tuple[pd.Series, pd.Series]:
    """Holm over the differences of a data set, and max-T over those of the same images, which
    are the same family unless specs of one data set saw different images."""
    by = compared.groupby("dataset", sort=False)["p"]
    adjusted = by.transform(lambda p: multiple.holm(p.to_numpy()))
    largest = np.full(len(gaps), np.nan)
    for group in {g for g, _ in gaps}:
        members = [k for k, (g, _) in enumerate(gaps) if g == group]
        largest[members] = multiple.max_t([gaps[k][1] for k in members])
    return adjusted, pd.Series(largest, compared.index)


def _pairs(
    table: pd.DataFrame, left: Chosen, right: Chosen, a: Choice, b: Choice, photos: dict[str, int]
) -> list[tuple[str, str]]:
    if len(left.rows) == len(right.rows) == 1:
        return [(left.rows["spec"].iloc[0], right.rows["spec"].iloc[0])]
    fixed = [c for c in described(table) if c not in left.free | right.free]
    others: dict[tuple[Any, ...], list[str]] = {}
    for spec, key in zip(right.rows["spec"], keys_of(right.rows, fixed), strict=True):
        others.setdefault((photos[str(spec)], *key), []).append(str(spec))
    pairs = [
        (str(spec), other)
        for spec, key in zip(left.rows["spec"], keys_of(left.rows, fixed), strict=True)
        for other in others.get((photos[str(spec)], *key), [])
        if other != spec
    ]
    if not pairs:
        raise LabError(
            f"{said(a)} and {said(b)} have no two specs that were evaluated on the same photos and "
            f"are equal in {', '.join(fixed)}"
        )
    if any(len({p[side] for p in pairs}) < len(pairs) for side in (0, 1)):
        keys = ", ".join(dict.fromkeys([*left.rows["spec"], *right.rows["spec"]]))
        raise LabError(f"{said(a)} or {said(b)} names several specs; give the keys of two ({keys})")
    return pairs

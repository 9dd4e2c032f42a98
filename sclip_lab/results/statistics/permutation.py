"""Is the difference of two variants more than chance? A test that swaps counts photo by photo.

If the two variants did not differ, swapping their counts on a photo would change nothing. The test
keeps its level on any number of photos and needs no standard error. Its null hypothesis is stronger
than equal scores: the two variants are exchangeable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sclip_lab.results.statistics import resampling
from sclip_lab.results.statistics.resampling import Sample
from sclip_lab.results.table import metrics
from sclip_lab.results.table.scores import STATISTICS


def permutation_p(
    pairs: Sequence[tuple[Sample, Sample]],
    photos: int,
    statistic: str = "miou",
    n: int = 2000,
    seed: int = 0,
) -> float:
    """Two-sided p of "swapping the two changes nothing".

    Args:
        pairs: counts of a and b on the same images, one pair per data set; the difference is the
            mean over data sets, and a photo of several data sets is swapped in all at once.
        photos: how many photos there are.
        statistic: miou, pixel_accuracy or mean_accuracy.
        n: random swaps; where at most ``n`` swaps exist (2^photos), each is tried once instead.
        seed: of the swaps.

    Returns:
        in 1 / (n + 1) .. 1, or 2 / 2^photos .. 1 where every swap is tried; NaN where the
        difference is NaN.
    """
    sums = [(a.totals.sum(0), b.totals.sum(0)) for a, b in pairs]
    observed = _difference(sums, statistic)
    if np.isnan(observed):
        return np.nan
    limit = abs(observed) * (1 - 1e-9) - 1e-12  # equal up to rounding is equal
    as_large, total = 0, 0
    for swaps in _swaps(photos, n, seed):
        moved = []
        for (first, second), (a, b) in zip(sums, pairs, strict=True):
            gap = (b.totals - a.totals).reshape(len(a.totals), -1)
            change = (swaps[:, a.photos] @ gap).reshape(len(swaps), *first.shape)
            moved.append((first + change, second - change))
        as_large += int(np.count_nonzero(np.abs(_difference(moved, statistic)) >= limit))
        total += len(swaps)
    return as_large / total if photos <= np.log2(n) else (1 + as_large) / (1 + total)


def _difference(
    sums: Sequence[tuple[metrics.Array, metrics.Array]], statistic: str
) -> metrics.Array:
    score = STATISTICS[statistic]
    return np.mean([score(a) - score(b) for a, b in sums], axis=0)


def _swaps(photos: int, n: int, seed: int) -> Iterator[metrics.Array]:
    """Yield arrays (some swaps, photos), 1 where a photo is swapped: all 2^photos, or n random."""
    if photos <= np.log2(n):
        yield (np.arange(2**photos)[:, None] >> np.arange(photos) & 1).astype(np.float64)
        return
    draw = np.random.default_rng([seed, 2])
    chunk = max(1, resampling._CELLS // photos)
    for start in range(0, n, chunk):
        size = min(chunk, n - start)
        yield draw.integers(0, 2, size=(size, photos)).astype(np.float64)

"""Scores of many specs on resampled photos and with one photo left out, computed together.

All specs of a design share its resamples, so that differences and means of their scores are
differences and means of arrays. Within a resample, or with a photo left out, the mean of a score
is taken over the classes that hold a true pixel there: a class without one says nothing about how
well it would be found. The field's own score counts such a class as 0 where it is predicted
anywhere; `Scored.estimate` does so, `Scored.centre` does not. They are equal where all classes
occur.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sclip_lab.results.table import metrics
from sclip_lab.results.table.scores import STATISTICS

_CELLS = 2**22  # numbers held at a time: 32 MiB
Index = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Design:
    """How photos are drawn: with replacement, within strata.

    Attributes:
        strata: (photos,) stratum of each photo; 0 everywhere for a plain bootstrap.
        n: resamples. seed: of the resamples.
    """

    strata: Index
    n: int = 2000
    seed: int = 0

    @classmethod
    def plain(cls, photos: int, n: int = 2000, seed: int = 0) -> Design:
        """A plain bootstrap: all photos are one stratum."""
        return cls(np.zeros(photos, np.intp), n, seed)

    @cached_property
    def members(self) -> list[Index]:
        """For each stratum, the indices of its photos."""
        return [np.flatnonzero(self.strata == stratum) for stratum in np.unique(self.strata)]

    def weights(self) -> Iterator[metrics.Array]:
        """Yield arrays (some of the n resamples, photos): how often each photo was drawn. The
        numbers do not depend on the size of the chunks."""
        photos = len(self.strata)
        draws = [np.random.default_rng([self.seed, s]) for s in range(len(self.members))]
        chunk = max(1, _CELLS // photos)
        for start in range(0, self.n, chunk):
            size = min(chunk, self.n - start)
            weights = np.empty((size, photos))
            for draw, members in zip(draws, self.members, strict=True):
                picks = draw.integers(len(members), size=(size, len(members)))
                picks += np.arange(size)[:, None] * len(members)
                counts = np.bincount(picks.ravel(), minlength=picks.size)
                weights[:, members] = counts.reshape(picks.shape)
            yield weights


@dataclass(frozen=True, eq=False)
class Sample:
    """One spec's counts.

    Attributes:
        totals: (images, 3, classes) pixels: right, true, predicted; from `scores.totals_of`.
        photos: (images,) which photo of the design each image is.
    """

    totals: metrics.Array
    photos: Index


@dataclass(frozen=True, eq=False)
class Scored:
    """A score, or a difference or mean of scores, under one design.

    Attributes:
        estimate: the field's score.
        centre: the mean over classes with true pixels alone.
        without: (photos,) ``centre`` with one photo left out.
        resampled: (n,) ``centre`` on resampled photos; NaN where nothing true was drawn.
        draws: (photos,) mean of how often each photo was drawn.
        design: how photos were drawn.
        bounds: lowest and highest possible value.
        sample: the counts; None for a difference or a mean.
    """

    estimate: float
    centre: float
    without: metrics.Array = field(repr=False)
    resampled: metrics.Array = field(repr=False)
    draws: metrics.Array = field(repr=False)
    design: Design = field(repr=False)
    bounds: tuple[float, float] = (0.0, 1.0)
    sample: Sample | None = field(default=None, repr=False)

    def __sub__(self, other: Scored) -> Scored:
        return combined([self, other], [1.0, -1.0], (-1.0, 1.0))

    @staticmethod
    def mean(scores: Sequence[Scored]) -> Scored:
        """The mean of scores of one design, with its resamples."""
        return combined(scores, [1 / len(scores)] * len(scores), scores[0].bounds)


def combined(
    scores: Sequence[Scored], factors: Sequence[float], bounds: tuple[float, float]
) -> Scored:
    """The sum of scores of one design, each times its factor; resamples are summed likewise."""

    def total(name: str) -> metrics.Array:
        return sum(f * getattr(s, name) for s, f in zip(scores, factors, strict=True))

    first = scores[0]
    return Scored(
        float(total("estimate")),
        float(total("centre")),
        total("without"),
        total("resampled"),
        first.draws,
        first.design,
        bounds,
    )


def score(samples: Sequence[Sample], design: Design, statistic: str = "miou") -> list[Scored]:
    """Score every sample on the design's resamples and with each photo left out.

    Args:
        samples: of one design.
        design: how photos are drawn.
        statistic: miou, pixel_accuracy or mean_accuracy.
    """
    photos = len(design.strata)
    resampled: list[list[metrics.Array]] = [[] for _ in samples]
    draws = np.zeros(photos)
    for weights in design.weights():
        draws += weights.sum(0)
        for sample, chunks in zip(samples, resampled, strict=True):
            is_all = np.array_equal(sample.photos, np.arange(photos))
            drawn_of = weights if is_all else weights[:, sample.photos]
            sums = drawn_of @ sample.totals.reshape(len(sample.totals), -1)
            chunks.append(defined(sums.reshape(len(drawn_of), *sample.totals.shape[1:]), statistic))
    scores = []
    for sample, chunks in zip(samples, resampled, strict=True):
        whole = sample.totals.sum(0)
        centre = float(defined(whole.copy(), statistic))
        without = np.full(photos, centre)
        without[sample.photos] = _without_one(sample.totals, whole, statistic)
        estimate = float(STATISTICS[statistic](whole))
        values = np.concatenate(chunks)
        scores.append(
            Scored(estimate, centre, without, values, draws / design.n, design, sample=sample)
        )
    return scores


def defined(totals: metrics.Array, statistic: str) -> metrics.Array:
    """The statistic over classes with true pixels: (..., 3, classes) -> (...). Overwrites
    ``totals``."""
    # Counts are whole numbers, and exact: 0 means none.
    totals[..., 2, :][totals[..., 1, :] == 0] = 0
    return STATISTICS[statistic](totals)


def _without_one(totals: metrics.Array, whole: metrics.Array, statistic: str) -> metrics.Array:
    chunk = max(1, _CELLS // whole.size)
    parts = range(0, len(totals), chunk)
    return np.concatenate([defined(whole - totals[i : i + chunk], statistic) for i in parts])

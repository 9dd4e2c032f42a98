"""Intervals and p-values of a score under a design; `docs/statistics.md` says how well they cover.

``corrected`` is what the laboratory reports. It is Student's interval around a score without its
bias: the standard error comes from leaving out one photo at a time (the jackknife: Efron and
Stein, Annals of Statistics 9, 1981), the bias from the bootstrap (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 10). mIoU is a mean of ratios: on few photos it is
too low, and the plain bootstrap moves further down with every resample that lacks a class.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from sclip_lab.results.statistics.resampling import Scored

Interval = tuple[float, float]
FEWEST_PHOTOS = 10  # on fewer photos a score has no interval, no p and no verdict
# Scores lie in 0 .. 1; a standard error below this is rounding.
_ROUNDING = 1e-12


def standard_error(scored: Scored) -> tuple[float, float]:
    """Jackknife standard error and its degrees of freedom, summed over strata.

    Its square is the sum over strata h of (n_h - 1) / n_h * sum of squared deviations of the n_h
    scores with one photo left out from their mean. The degrees of freedom are Satterthwaite's,
    n - 1 for one stratum. A photo that is alone in its stratum adds nothing.

    Returns:
        error and degrees of freedom; both NaN where no stratum holds two photos.
    """
    parts, freedom = [], []
    for members in scored.design.members:
        values = scored.without[members]
        values = values[~np.isnan(values)]
        if len(values) > 1:
            squares = np.square(values - values.mean()).sum()
            parts.append((len(values) - 1) / len(values) * squares)
            freedom.append(len(values) - 1)
    if not parts:
        return np.nan, np.nan
    total = sum(parts)
    if total == 0:
        return 0.0, float(sum(freedom))
    spread = sum(part**2 / free for part, free in zip(parts, freedom, strict=True))
    return float(np.sqrt(total)), float(total**2 / spread)


def bias(scored: Scored) -> float:
    """Bootstrap estimate of the bias: mean of the resampled scores minus the score.

    Resamples that happen to draw some photos more often shift this mean; the shift is subtracted
    to first order, with each photo's influence from the jackknife (Efron, JASA 85, 1990). For a
    linear score the estimate is exactly 0.
    """
    if np.isnan(scored.resampled).all() or np.isnan(scored.without).all():
        return np.nan
    luck = 0.0
    for members in scored.design.members:
        influence = scored.without[members] - np.nanmean(scored.without[members])
        share = (len(members) - 1) / len(members)
        luck -= share * np.nansum(influence * (scored.draws[members] - 1))
    return float(np.nanmean(scored.resampled) - scored.centre - luck)


def corrected(scored: Scored, level: float = 0.95) -> Interval:
    """Student's interval around the score without its bias, cut at the score's bounds, and widened
    where needed to contain the score."""
    if np.isnan(scored.estimate):
        return np.nan, np.nan
    error, freedom = standard_error(scored)
    reach = error * special.stdtrit(freedom, (1 + level) / 2)
    middle = scored.centre - bias(scored)
    low, high = np.clip([middle - reach, middle + reach], *scored.bounds)
    # np.minimum keeps NaN, as for a single photo.
    return float(np.minimum(low, scored.estimate)), float(np.maximum(high, scored.estimate))


def interval(scored: Scored, level: float = 0.95) -> Interval:
    """Low and high of `corrected`, or NaN for both where no interval can be given.

    None is given on fewer than `FEWEST_PHOTOS` photos, where all photos show exactly the same, or
    where the score does not lie strictly inside: then classes of the vocabulary are missing from
    the photos, and the interval is that of the other classes' mean.
    """
    if _few(scored):
        return np.nan, np.nan
    low, high = corrected(scored, level)
    return (low, high) if low < scored.estimate < high else (np.nan, np.nan)


def _few(scored: Scored) -> bool:
    return len(scored.design.strata) < FEWEST_PHOTOS


def studentised(scored: Scored, at: float = 0.0) -> tuple[float, float]:
    """Distance of the score without its bias from ``at``, in standard errors, and the degrees of
    freedom. The distance is 0 where the score with its bias lies on the other side of ``at``,
    infinite where the error is 0, and NaN on fewer than `FEWEST_PHOTOS` photos."""
    error, freedom = standard_error(scored)
    if _few(scored):
        return np.nan, freedom
    distance = scored.centre - bias(scored) - at
    if distance * (scored.estimate - at) < 0:
        return 0.0, freedom
    if error <= _ROUNDING:
        is_equal = abs(distance) <= _ROUNDING
        return (0.0 if is_equal else float(np.copysign(np.inf, distance))), freedom
    return distance / error, freedom


def p_value(scored: Scored, at: float = 0.0) -> float:
    """Two-sided p of "the true value is ``at``", below 1 - level where `corrected` excludes it.

    Returns:
        NaN where the score or its error is NaN, and on fewer than `FEWEST_PHOTOS` photos. A
        difference that is the same on all photos has error 0: its p is 2 / 2^photos, the least p
        that `permutation.permutation_p` can give.
    """
    statistic, freedom = studentised(scored, at)
    if np.isinf(statistic):
        return float(2.0 ** (1 - len(scored.design.strata)))
    return float(2 * special.stdtr(freedom, -abs(statistic)))


# ---------------------------------------------------------------- means of one number a photo


def mean_interval(
    values: npt.ArrayLike,
    level: float = 0.95,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Interval:
    """Interval of the mean of one number a photo, with the right coverage for skewed numbers too.

    It spans both Student's interval and Hall's (JRSS B 54, 1992), which takes skewness out by a
    cubic that can be inverted. Student's alone is too narrow for skewed numbers, Hall's for heavy
    tails: docs/statistics.md has the simulation.

    Args:
        values: (photos,); NaN where a photo has none.
        level: of the interval.
        bounds: lowest and highest possible value, None for no bound. The interval is cut there:
            no mean can lie beyond, so it covers the true mean as often as before.

    Returns:
        low, high; both NaN for fewer than three numbers, or where all are equal.
    """
    numbers, mean, spread, skew = _moments(values)
    count = len(numbers)
    if count < 3 or spread <= _ROUNDING:
        return np.nan, np.nan
    reach = special.stdtrit(count - 1, (1 + level) / 2) / np.sqrt(count)
    ends = np.array([reach, -reach])
    away = ends if skew == 0 else 3 / skew * (np.cbrt(1 + skew * (ends - skew / (6 * count))) - 1)
    low, high = mean - spread * np.array([max(reach, away[0]), min(-reach, away[1])])
    lowest, highest = np.array(bounds, dtype=float)  # None is NaN, which fmax and fmin pass over
    return float(np.fmax(low, lowest)), float(np.fmin(high, highest))


def mean_p(values: npt.ArrayLike, at: float = 0.0) -> float:
    """Two-sided p of "the mean is ``at``", below 1 - level where `mean_interval` excludes it.

    Returns:
        NaN for fewer than three numbers. Equal numbers get 1, or 2 / 2^photos where they are not
        ``at``: the least that a test of their signs can show.
    """
    numbers, mean, spread, skew = _moments(values)
    count = len(numbers)
    if count < 3:
        return np.nan
    if spread <= _ROUNDING:
        return 1.0 if abs(mean - at) <= _ROUNDING else float(2.0 ** (1 - count))
    student = (mean - at) / spread
    hall = student + skew * student**2 / 3 + skew**2 * student**3 / 27 + skew / (6 * count)
    nearest = min(abs(student), abs(hall)) if student * hall > 0 else 0.0
    return float(2 * special.stdtr(count - 1, -np.sqrt(count) * nearest))


def _moments(values: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], float, float, float]:
    """The numbers that are not NaN; their mean, standard deviation and skewness."""
    numbers = pd.Series(np.asarray(values, dtype=float)).dropna()
    if len(numbers) < 3:
        return numbers.to_numpy(), np.nan, np.nan, np.nan
    mean, spread, skew = (float(numbers.agg(name)) for name in ("mean", "std", "skew"))
    return numbers.to_numpy(), mean, spread, skew

"""p-values of several questions at once.

A family is a set of questions that are asked together. Holm and max-T keep the chance that a family
gets any wrong "differs" below alpha. Benjamini and Hochberg keep the expected share of wrong
answers among all "differs" below alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sclip_lab.results.statistics.intervals import p_value, studentised
from sclip_lab.results.statistics.resampling import Scored
from sclip_lab.results.table.metrics import Array


def holm(p: npt.ArrayLike) -> Array:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979).

    Args:
        p: (questions,) in 0 .. 1; NaN is no question.

    Returns:
        (questions,) adjusted p, NaN where ``p`` is NaN.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")  # NaN last
    questions = int(np.count_nonzero(~np.isnan(p)))
    steps = p[order][:questions] * np.arange(questions, 0, -1)
    adjusted = np.full(len(p), np.nan)
    adjusted[order[:questions]] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> Array:
    """Benjamini and Hochberg's adjustment (JRSS B 57, 1995), by scipy; args as in `holm`."""
    p = np.asarray(p, np.float64)
    is_question = ~np.isnan(p)
    adjusted = np.full(len(p), np.nan)
    if is_question.any():
        from scipy import stats  # this import takes half a second, and few calls need it

        adjusted[is_question] = stats.false_discovery_control(p[is_question])
    return adjusted


def max_t(differences: Sequence[Scored]) -> Array:
    """Step-down max-T (Westfall and Young, 1993; Romano and Wolf, JASA 100, 2005).

    Each difference is compared, in standard errors, with the largest difference of its family in
    resamples that are moved to a mean of 0. This keeps the same error low as Holm's adjustment, but
    correlated differences cost less. A resample is divided by the root of a drawn chi-square over
    its degrees of freedom, so that a family of one gets Student's p.

    A difference that is the same on all photos has standard error 0, so its p (see
    `intervals.p_value`) is multiplied by Holm's factor instead. Adjusting lowers no p.

    Args:
        differences: of one design.

    Returns:
        (differences,) adjusted p; NaN where a difference is NaN. It is at least 1 / (n + 1), except
        for differences that are the same on all photos.
    """
    statistics = [studentised(difference) for difference in differences]
    observed = np.array([abs(statistic) for statistic, _ in statistics])
    adjusted = np.full(len(observed), np.nan)
    order = [int(k) for k in np.argsort(-observed, kind="stable") if not np.isnan(observed[k])]
    if not order:
        return adjusted
    design = differences[0].design
    freedom = min(free for _, free in statistics if not np.isnan(free))
    chance = np.random.default_rng([design.seed, 1]).chisquare(freedom, design.n) / freedom
    largest = np.zeros(design.n)
    single = {k: p_value(differences[k]) for k in order}
    for rank, k in reversed(list(enumerate(order))):
        if np.isinf(observed[k]):
            adjusted[k] = min(1.0, single[k] * (len(order) - rank))
            continue
        centred = differences[k].resampled - np.nanmean(differences[k].resampled)
        spread = np.nanstd(centred)
        in_errors = np.abs(centred) / (spread if spread > 0 else 1.0) / np.sqrt(chance)
        largest = np.fmax(largest, in_errors)
        share = (1 + np.count_nonzero(largest >= observed[k])) / (design.n + 1)
        adjusted[k] = max(share, single[k])
    adjusted[order] = np.maximum.accumulate(adjusted[order])
    return adjusted

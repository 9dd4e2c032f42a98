"""The simulation of docs/statistics.md, held to its limits: fixed seeds, so it cannot flicker."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.coverage import (
    SHAPES,
    constant_differences,
    coverage,
    family,
    null_bold,
    null_means,
    null_relations,
    null_voids,
)

LIMITS = {("common", 64): 0.93, ("rare", 64): 0.91, ("common", 20): 0.85, ("rare", 20): 0.85}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "photos"), LIMITS, ids=str)
def test_intervals_cover_and_p_keeps_its_level(kind: str, photos: int) -> None:
    shares = coverage(kind, photos, repetitions=1000, n=200, seed=3)
    assert shares["score_corrected"] >= LIMITS[kind, photos]
    assert shares["score_corrected"] > shares["score_bca"]
    # 1.5 points of nominal, and two standard errors of 1000 repetitions
    assert shares["difference_corrected"] == pytest.approx(0.95, abs=0.015 + 0.014)
    assert shares["p"] == pytest.approx(0.05, abs=0.015 + 0.014)
    assert shares["p_permutation"] == pytest.approx(0.05, abs=0.015 + 0.014)


@pytest.mark.slow
def test_families_keep_their_level() -> None:
    shares = family("common", 64, repetitions=300, n=200)
    assert shares["none"] > 0.15
    assert shares["holm"] <= 0.075
    assert shares["max_t"] <= 0.085


@pytest.mark.slow
@pytest.mark.parametrize("families", [5, 8, 16])
def test_claims_about_unrelated_measures_keep_their_level(families: int) -> None:
    shares = null_relations(families, repetitions=300)
    assert shares["photos"] > 0.3  # why photos alone do not do
    # 5 %, and two standard errors of 300 repetitions
    assert shares["family"] <= 0.05 + 0.026
    assert shares["verdict"] <= (0.05 + 0.026 if families >= 8 else 0)


@pytest.mark.slow
def test_means_of_few_photos_voids_and_bold_keep_their_level() -> None:
    for shape in SHAPES:
        for photos in (5, 10, 20, 64):
            shares = null_means(photos, shape, repetitions=1000)
            assert shares["p"] <= 0.05 + 0.021  # 1.5 standard errors of 1000 repetitions
            assert shares["p"] <= shares["t"]
    assert null_voids(20, repetitions=300)["left out"] <= 0.05 + 0.03
    shares = null_bold(20, repetitions=150)
    assert shares["all pairs"] <= 0.05 + 0.036
    assert shares["pairs with the best"] > shares["all pairs"]


@pytest.mark.parametrize("photos", [10, 12, 20])
def test_no_adjustment_makes_a_constant_difference_surer(photos: int) -> None:
    shares = constant_differences(photos)
    assert shares["p"] == 2 / 2**photos
    assert shares["holm"] == shares["max_t"] == pytest.approx(3 * shares["p"])
    assert all(np.isnan(constant_differences(4)[name]) for name in ("p", "holm", "max_t"))


def test_a_few_repetitions_run() -> None:
    shares = coverage("rare", 12, repetitions=3, n=50)
    assert set(shares) >= {"score_corrected", "difference_corrected", "p", "p_permutation"}
    assert all(0 <= share <= 1 for share in shares.values())


def test_a_few_repetitions_of_claims_run() -> None:
    for shares in (
        null_relations(8, 2),
        null_means(5, "skewed", 2),
        null_voids(12, 2, n=20),
        null_bold(4, 2, n=20),
    ):
        assert all(0 <= share <= 1 for share in shares.values())

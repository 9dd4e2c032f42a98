"""The simulation of docs/statistics.md, held to its limits: fixed seeds, so it cannot flicker."""

from __future__ import annotations

import pytest

from analysis.coverage import (
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
    found = coverage(kind, photos, repetitions=1000, n=200, seed=3)
    assert found["score_corrected"] >= LIMITS[kind, photos]
    assert found["score_corrected"] > found["score_bca"]
    # 1.5 points of nominal, and two standard errors of 1000 repetitions
    assert found["difference_corrected"] == pytest.approx(0.95, abs=0.015 + 0.014)
    assert found["p"] == pytest.approx(0.05, abs=0.015 + 0.014)
    assert found["p_permutation"] == pytest.approx(0.05, abs=0.015 + 0.014)


@pytest.mark.slow
def test_families_keep_their_level() -> None:
    found = family("common", 64, repetitions=300, n=200)
    assert found["none"] > 0.15
    assert found["holm"] <= 0.075
    assert found["max_t"] <= 0.085


@pytest.mark.slow
@pytest.mark.parametrize("families", [5, 8, 16])
def test_claims_about_unrelated_measures_keep_their_level(families: int) -> None:
    found = null_relations(families, repetitions=300)
    assert found["photos"] > 0.3  # why photos alone do not do
    # 5 %, and two standard errors of 300 repetitions
    assert found["family"] <= 0.05 + 0.026
    assert found["verdict"] <= (0.05 + 0.026 if families >= 8 else 0)


@pytest.mark.slow
def test_means_of_few_photos_voids_and_bold_keep_their_level() -> None:
    for photos in (10, 20):
        found = null_means(photos, "heavy tails", repetitions=1000)
        assert found["t"] <= 0.05 + 0.014 < found["percentile"]
    assert null_voids(20, repetitions=300)["left out"] <= 0.05 + 0.03
    found = null_bold(20, repetitions=150)
    assert found["all pairs"] <= 0.05 + 0.036
    assert found["pairs with the best"] > found["all pairs"]


def test_a_few_repetitions_run() -> None:
    found = coverage("rare", 12, repetitions=3, n=50)
    assert set(found) >= {"score_corrected", "difference_corrected", "p", "p_permutation"}
    assert all(0 <= share <= 1 for share in found.values())


def test_a_few_repetitions_of_claims_run() -> None:
    for shares in (
        null_relations(8, 2),
        null_means(5, "skewed", 2),
        null_voids(4, 2, n=20),
        null_bold(4, 2, n=20),
    ):
        assert all(0 <= share <= 1 for share in shares.values())

"""The simulation of docs/statistics.md, held to its limits: fixed seeds, so it cannot flicker."""

from __future__ import annotations

import pytest

from analysis.coverage import coverage, family

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


def test_a_few_repetitions_run() -> None:
    found = coverage("rare", 12, repetitions=3, n=50)
    assert set(found) >= {"score_corrected", "difference_corrected", "p", "p_permutation"}
    assert all(0 <= share <= 1 for share in found.values())

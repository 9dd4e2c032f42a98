"""The decomposition of CSA's gain against a walk over all orders, and the study's claims."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sclip_lab.paper.studies import interventions as study
from sclip_lab.results.statistics.resampling import Design, Scored

PHOTOS = 12


def scored(values: np.ndarray) -> Scored:
    design = Design.plain(PHOTOS, 50)
    weights = np.concatenate(list(design.weights()))
    without = (values.sum() - values) / (PHOTOS - 1)
    mean = float(values.mean())
    resampled = weights @ values / PHOTOS
    return Scored(mean, mean, without, resampled, weights.mean(0), design)


@pytest.fixture
def cells() -> dict[frozenset[str], str]:
    subsets = range(2 ** len(study.PARTS))
    parts = list(study.PARTS)
    return {
        frozenset(part for k, part in enumerate(parts) if number >> k & 1): str(number)
        for number in subsets
    }


def found(cells: dict[frozenset[str], str], values: dict[str, np.ndarray]) -> Any:
    scores = {key: scored(values[key]) for key in cells.values()}
    comparisons = SimpleNamespace(
        gap=lambda a, b: scores[a] - scores[b], counts=lambda key: key, photos=lambda _: PHOTOS
    )
    return SimpleNamespace(comparisons=comparisons)


def test_shapley_values_are_means_over_all_orders(cells: dict[frozenset[str], str]) -> None:
    rng = np.random.default_rng(0)
    values = {key: rng.random(PHOTOS) for key in cells.values()}
    gains = study.shapley(found(cells, values), cells)
    expected = dict.fromkeys(study.PARTS, 0.0)
    orders = list(permutations(study.PARTS))
    for order in orders:
        removed: frozenset[str] = frozenset()
        for part in order:
            after = removed | {part}
            gain = values[cells[after]].mean() - values[cells[removed]].mean()
            expected[part] += gain / len(orders)
            removed = after
    for part, gain in gains.items():
        assert gain.estimate == pytest.approx(expected[part])
    whole = values[cells[frozenset(study.PARTS)]].mean() - values[cells[frozenset()]].mean()
    assert sum(gain.estimate for gain in gains.values()) == pytest.approx(whole)
    total = sum(gain.resampled for gain in gains.values())
    ends = (scored(values[cells[s]]) for s in (frozenset(study.PARTS), frozenset()))
    high, low = ends
    np.testing.assert_allclose(total, high.resampled - low.resampled)


def test_one_part_that_does_everything_has_everything(cells: dict[frozenset[str], str]) -> None:
    noise = np.random.default_rng(1).random(PHOTOS) / 10
    values = {key: noise + 0.4 * ("mass" in removed) for removed, key in cells.items()}
    gains = study.shapley(found(cells, values), cells)
    assert gains["mass"].estimate == pytest.approx(0.4)
    for part in ("place", "sharpness", "weight"):
        assert gains[part].estimate == pytest.approx(0.0, abs=1e-12)


def test_single_blocks_stand_at_their_share_of_the_depth() -> None:
    layers = [["5/8"], [-1], ["1/8"], [0, 1], "last 2"]
    facts = {"variant": "oracle set_mass", "attention.base": "vanilla", "attention.other": 0.0}
    table = pd.DataFrame({**facts, "attention.layers": layers}, index=list("abcde"))
    blocks = study._by_block(SimpleNamespace(cells=table))  # type: ignore[arg-type]
    assert list(blocks.items()) == [(0.125, "c"), (0.625, "a"), (1.0, "b")]

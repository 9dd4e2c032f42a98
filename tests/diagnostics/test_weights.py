"""Measures of attention weights against closed forms and loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sclip_lab.diagnostics.attention import (
    attention_entropy,
    diagonal_mass,
    mean_attention_distance,
    self_argmax_rate,
    spatial_invariance,
)
from sclip_lab.diagnostics.observation import patch_rows

GRID = (3, 4)
COUNT = 12


def uniform() -> Tensor:
    return torch.full((1, 1, COUNT, COUNT), 1 / COUNT)


def itself() -> Tensor:
    return torch.eye(COUNT)[None, None]


def one_map() -> Tensor:
    """Every patch attends to the first: CLIP's last block, exaggerated."""
    return torch.eye(COUNT)[0].expand(1, 1, COUNT, COUNT)


def drawn() -> Tensor:
    scores = torch.randn(2, 3, COUNT, COUNT, generator=torch.Generator().manual_seed(0))
    return scores.softmax(-1)


@pytest.mark.parametrize(
    ("weights", "entropy", "invariance", "diagonal", "argmax"),
    [
        (uniform(), 1.0, 1.0, 1 / COUNT, 1.0),  # a tie with oneself counts
        (itself(), 0.0, 0.0, 1.0, 1.0),
        (one_map(), 0.0, 1.0, 1 / COUNT, 1 / COUNT),
        (0.5 * itself() + 0.5 * itself().roll(1, -1), math.log(2) / math.log(COUNT), None, 0.5, 1),
    ],
    ids=["uniform", "itself", "one map", "two patches"],
)
def test_closed_forms(
    weights: Tensor, entropy: float, invariance: float | None, diagonal: float, argmax: float
) -> None:
    assert attention_entropy(weights).item() == pytest.approx(entropy, abs=1e-6)
    assert diagonal_mass(weights).item() == pytest.approx(diagonal)
    assert self_argmax_rate(weights).item() == pytest.approx(argmax)
    if invariance is not None:
        assert spatial_invariance(weights).item() == pytest.approx(invariance, abs=1e-5)


def test_spatial_invariance_equals_a_loop() -> None:
    weights = drawn().double()
    for batch in range(2):
        for head in range(3):
            rows = weights[batch, head]
            cosines = [
                torch.dot(a, b) / (a.norm() * b.norm())
                for i, a in enumerate(rows)
                for k, b in enumerate(rows)
                if i != k
            ]
            expected = torch.stack(cosines).mean()
            torch.testing.assert_close(spatial_invariance(weights)[batch, head], expected)


def test_entropy_equals_torch() -> None:
    weights = drawn()
    expected = torch.distributions.Categorical(weights).entropy().mean(-1) / math.log(COUNT)
    torch.testing.assert_close(attention_entropy(weights), expected, atol=1e-6, rtol=0)


def test_distance_equals_a_loop() -> None:
    weights = drawn()
    expected = torch.zeros(2, 3)
    for i in range(COUNT):
        for j in range(COUNT):
            (y, x), (v, u) = divmod(i, GRID[1]), divmod(j, GRID[1])
            expected += weights[..., i, j] * math.hypot(16 * (y - v), 16 * (x - u)) / COUNT
    torch.testing.assert_close(mean_attention_distance(weights, GRID, 16), expected)
    assert mean_attention_distance(itself(), GRID, 16).item() == 0


def test_a_single_patch_has_no_entropy_nor_pairs() -> None:
    alone = torch.ones(1, 2, 1, 1)
    assert attention_entropy(alone).isnan().all()
    assert spatial_invariance(alone).isnan().all()
    assert diagonal_mass(alone).eq(1).all()


def test_class_token_is_dropped_and_rows_renormalised() -> None:
    full = torch.randn(2, 3, 1 + COUNT, 1 + COUNT).softmax(-1)
    among = patch_rows(2 * full, GRID)  # rows of any sum
    expected = full[..., 1:, 1:] / (1 - full[..., 1:, :1])
    torch.testing.assert_close(among, expected)
    torch.testing.assert_close(patch_rows(among.bfloat16(), GRID).sum(-1), torch.ones(2, 3, COUNT))
    only_class = torch.zeros(1, 1, 1 + COUNT, 1 + COUNT)
    only_class[..., 0] = 1.0
    assert patch_rows(only_class, GRID).eq(0).all()

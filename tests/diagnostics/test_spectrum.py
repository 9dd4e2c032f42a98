"""Effective rank and rank collapse against closed forms and an SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sclip_lab.diagnostics.features import effective_rank, rank_one_residual


def test_effective_rank_of_equal_directions_is_their_number() -> None:
    features = torch.zeros(1, 6, 9)
    features[0, :4, :4] = 3 * torch.eye(4)
    assert effective_rank(features).item() == pytest.approx(4)
    assert effective_rank(torch.ones(1, 6, 9)).item() == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.zeros(1, 6, 9)).isnan().all()


@pytest.mark.parametrize("shape", [(2, 7, 12), (2, 12, 7)])
def test_effective_rank_is_the_entropy_of_singular_values(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for window, rank in zip(features, effective_rank(features), strict=True):
        values = np.linalg.svd(window.double().numpy(), compute_uv=False)
        share = values / values.sum()
        assert rank.item() == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_rank_one_residual() -> None:
    same = torch.arange(5.0).expand(1, 8, 5)
    assert rank_one_residual(same).item() == 0
    around_zero = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]])
    assert rank_one_residual(around_zero).item() == pytest.approx(1)
    tokens = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(0)) + 1
    rest = tokens[0] - tokens[0].mean(0)
    expected = np.sqrt(
        np.linalg.norm(rest, 1) * np.linalg.norm(rest, np.inf)
        / (np.linalg.norm(tokens[0], 1) * np.linalg.norm(tokens[0], np.inf))
    )  # fmt: skip
    assert rank_one_residual(tokens).item() == pytest.approx(expected, rel=1e-5)

"""GEM: the official attention rows of each projection, limits, any grid and batch."""

from __future__ import annotations

import pytest
import torch

from sclip_lab.attention.gem import gem
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.dense_features import dense_features
from tests import toy

SETTINGS = {
    "gem": {},
    "gem_depth4": {},
    "gem_iter0": {"iterations": 0},
    "gem_iter2": {"iterations": 2},
    "gem_temp10": {"inverse_temperature": 10.0},
}


def test_weights_average_to_one_and_cold_ones_are_the_identity() -> None:
    ctx = toy.context(toy.network(), toy.inputs()["rect224x336"])
    with torch.inference_mode():
        weights = gem(ctx)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        torch.testing.assert_close(gem(ctx, combine="sum"), 3 * weights)
        # Unit rows: nothing is as similar to a token as itself.
        cold = gem(ctx, iterations=0, inverse_temperature=1e4)
        torch.testing.assert_close(cold, torch.eye(cold.shape[-1]).expand_as(cold))


def test_batch_equals_singles() -> None:
    x = torch.cat([toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]])
    variant = load_attention("gem")
    both = dense_features(toy.network(), x, variant)
    singles = torch.cat([dense_features(toy.network(), one[None], variant) for one in x])
    torch.testing.assert_close(both, singles, atol=1e-5, rtol=1e-5)


def test_refusals() -> None:
    ctx = toy.context(toy.network(), toy.inputs()["sq224_a"])
    with pytest.raises(LabError, match="iterations -1"):
        gem(ctx, iterations=-1)
    with pytest.raises(LabError, match="inverse_temperature 0"):
        gem(ctx, inverse_temperature=0)
    with pytest.raises(LabError, match="projections is empty"):
        gem(ctx, [])

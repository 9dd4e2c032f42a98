"""Priors in units of the scores, and attention by a prior alone, against loops and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sclip_lab.attention.neighbours import neighbours
from sclip_lab.attention.prior import gaussian_norms
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation import tree
from tests import toy


def weights_of(name: str, **overrides: object) -> Tensor:
    """Attention weights of a variant in the last block, on a rectangular image."""
    image, backbone = toy.inputs()["rect224x336"], toy.network()
    grid = backbone.grid(*image.shape[-2:])
    variant = load_attention(name, **overrides)
    with torch.inference_mode():
        tokens = backbone.embed(image)
        [(_, state, _)] = tree.leaves(backbone.blocks, tokens, grid, [variant])
    assert state.attention is not None
    return state.attention


@pytest.mark.parametrize("norms", ["pairwise", "mean"])
def test_gaussian_norms_by_loop(norms: str) -> None:
    images = torch.cat([toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]])[..., :32, :48]
    ctx = toy.context(toy.network(), images)
    ours = gaussian_norms(ctx, sigma=1.5, norms=norms, pair=["query", "value"])
    ours = ours.expand(2, ctx.block.num_heads, 7, 7)
    query, value = ctx.query.norm(dim=-1), ctx.value.norm(dim=-1)
    for image in range(2):
        products = query[image][:, :, None] * value[image][:, None, :]
        for head, i, j in [(0, 1, 6), (1, 3, 3), (1, 2, 5), (0, 0, 4), (1, 5, 0)]:
            height = products[head, i, j] if norms == "pairwise" else products.mean()
            if 0 in (i, j):
                peak = 0.0
            else:
                (y, x), (v, u) = divmod(i - 1, 3), divmod(j - 1, 3)
                peak = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 1.5**2))
            expected = height.item() * peak / math.sqrt(64)
            assert ours[image, head, i, j].item() == pytest.approx(expected, rel=1e-5)


def test_prior_on_an_earlier_block_uses_its_own_norms() -> None:
    image = toy.inputs()["rect224x336"]
    early = load_attention("early", prior="gaussian_norms")
    ctx = toy.context(toy.network(), image)
    observed = ctx.at(early.config["source"])
    raw = observed.scores(observed.query, observed.key) + gaussian_norms(observed)
    expected = torch.softmax(raw, dim=-1)
    ours = weights_of("early", prior="gaussian_norms")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_neighbours_only() -> None:
    ctx = toy.context(toy.network(), toy.inputs()["sq224_a"][..., :48, :64])
    tokens = 13
    torch.testing.assert_close(
        neighbours(ctx), torch.full((1, 2, tokens, tokens), 1 / tokens), rtol=1e-6, atol=0
    )
    # A window is then the mean over its patches; a corner of radius 1 has four.
    weights = weights_of("naclip_nonly", prior="window")
    assert weights[0, 0, 1].max().item() == pytest.approx(1 / 4)
    assert (weights[0, :, 1:] > 0).sum(-1).max() == 9


def test_unknown_norms() -> None:
    with pytest.raises(LabError, match="did you mean pairwise"):
        weights_of("segearth_gav", prior={"norms": "pairwize"})

"""GEM: the official attention rows of each projection, limits, any grid and batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sclip_lab.app.registry import load_attention
from sclip_lab.attention.gem import gem
from sclip_lab.errors import LabError
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.dense_features import dense_features
from tests import toy, vectors

SETTINGS = {
    "gem": {},
    "gem_depth4": {},
    "gem_iter0": {"iterations": 0},
    "gem_iter2": {"iterations": 2},
    "gem_temp10": {"inverse_temperature": 10.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_official_attention_of_each_projection(name: str) -> None:
    official = vectors.load(name)
    backbone = toy.network(position_embedding="bicubic_antialias")
    for key in [key for key in official if key.endswith("attn_rows")]:
        image, _, array = key.partition("__")
        projection = {"v": "value", "k": "key", "q": "query"}[array[0]]
        ctx = toy.context(backbone, toy.inputs()[image])
        with torch.inference_mode():
            rows = gem(ctx, [projection], **SETTINGS[name])[0, :, official[f"{key}_index"]]
        np.testing.assert_allclose(rows.numpy(), official[key], atol=1e-5)


@pytest.mark.parametrize("image", ["sq224_a", "rect336x448"])
def test_official_class_token_of_both_streams(image: str) -> None:
    official, x = vectors.load("gem"), toy.inputs()[image]
    backbone = toy.network(position_embedding="bicubic_antialias")
    grid = backbone.grid(*x.shape[-2:])
    with torch.inference_mode():
        [(_, state, _)] = tree.leaves(
            backbone.blocks, backbone.embed(x), grid, [load_attention("gem")]
        )
        visual = backbone.model.visual
        assert state.dense is not None
        dense = (visual.ln_post(state.dense) @ visual.proj)[0, 0]
        trained = backbone.project(state, grid)[1][0]
    np.testing.assert_allclose(dense, official[f"{image}__cls"], atol=5e-5)
    np.testing.assert_allclose(trained, official[f"{image}__ori_cls"], atol=5e-5)


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

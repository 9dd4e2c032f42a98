"""SC-CLIP and SFP: official attention of both passes; grids and batches the official code lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.dense_features import dense_features
from tests import toy

REPAIR = "sclip_lab.attention.repair."
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "scclip": ("scclip", {}),
    "sfp": ("sfp", {}),
    "sfp_l2": ("sfp", {"repair": {"_target_": REPAIR + "norm", "isolated": "zero"}}),
    "sfp_lof": ("sfp", {"repair": {"_target_": REPAIR + "lof", "isolated": "zero"}}),
}


@pytest.mark.parametrize("attention", ["scclip", "dih"])
@pytest.mark.parametrize("share", [2.0, -0.1])
def test_a_share_of_the_class_token_is_between_0_and_1(attention: str, share: float) -> None:
    with pytest.raises(LabError, match=f"class_share {share} must be at least 0 and at most 1"):
        dense_features(
            toy.network(),
            toy.inputs()["rect224x336"],
            load_attention(attention, class_share=share),
        )


@pytest.mark.parametrize("attention", ["scclip", "sfp", "similarity"])
def test_batch_equals_singles(attention: str) -> None:
    x = torch.cat([toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]])
    variant = load_attention(attention)
    both = dense_features(toy.network(), x, variant)
    singles = torch.cat([dense_features(toy.network(), one[None], variant) for one in x])
    torch.testing.assert_close(both, singles, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["scclip", "sfp"])
def test_transposing_tokens_transposes_features(attention: str) -> None:
    # A non-square grid has no official oracle, but rows and columns play equal parts: the same
    # tokens laid out on the transposed grid give the transposed features.
    backbone, variant = toy.network(), load_attention(attention)
    x = toy.inputs()["rect224x336"]
    grid = backbone.grid(*x.shape[-2:])
    with torch.inference_mode():
        tokens = backbone.embed(x)
        patches = tokens[:, 1:].unflatten(1, grid).transpose(1, 2).flatten(1, 2)
        turned = torch.cat([tokens[:, :1], patches], dim=1)
        [(_, state, _)] = tree.leaves(backbone.blocks, tokens, grid, [variant])
        [(_, other, _)] = tree.leaves(backbone.blocks, turned, grid[::-1], [variant])
        ours = backbone.project(state, grid)[0]
        theirs = backbone.project(other, grid[::-1])[0]
    torch.testing.assert_close(theirs.transpose(1, 2), ours, atol=2e-5, rtol=1e-5)


def test_one_pass_without_repair_is_the_similarity_attention_on_averaged_tokens() -> None:
    # With no averaging left (cut above every cosine but a patch's own) and no class token, one
    # pass is the weights function in a reduced block.
    bare = load_attention("scclip", repair=None, second_pass=None, cut=1 - 1e-5, class_share=0.0)
    x = toy.inputs()["rect224x336"]
    ours = dense_features(toy.network(), x, bare)
    expected = dense_features(toy.network(), x, load_attention("similarity"))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["scclip", "sfp", "similarity"])
def test_flat_image_gives_finite_features(attention: str) -> None:
    x = torch.zeros(1, 3, 32, 48)
    assert torch.isfinite(dense_features(toy.network(), x, load_attention(attention))).all()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"second_pass": ["4/12"]}, "first and a last layer"),
        ({"second_pass": ["9/12", "4/12"]}, "lies behind the last"),
        ({"similarity_layer": -1}, "can read blocks 0 to"),
        ({"residual": False}, "residual cannot be set"),
        ({"repair": {"_target_": REPAIR + "norm", "neighbours": 3}}, "neighbours"),
    ],
)
def test_refusals(overrides: dict[str, Any], says: str) -> None:
    def features() -> torch.Tensor:
        variant = load_attention("scclip", **overrides)
        return dense_features(toy.network(), toy.inputs()["sq224_a"], variant)

    with pytest.raises(LabError, match=says):
        features()

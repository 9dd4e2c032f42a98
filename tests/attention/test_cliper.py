"""The balanced sum of earlier attention: properties that the official outputs do not show."""

from __future__ import annotations

import pytest
import timm
import torch

from sclip_lab.attention.cliper import balanced, cliper
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.dense_features import dense_features
from tests import toy


def test_balanced_rows_sum_to_one_and_are_not_negative() -> None:
    attention = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    for rounds in (0, 1, 12):
        weights = balanced(attention, rounds)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 20))


def test_balanced_by_hand() -> None:
    # Symmetric already; column means are 2 and 3, so (3 - 2, 0; 0, 5 - 3) is left, then rows.
    attention = torch.tensor([[3.0, 1.0], [1.0, 5.0]])
    assert torch.equal(balanced(attention, 0), torch.eye(2))
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))
    expected = torch.block_diag(torch.full((2, 2), 1 / 2), torch.full((3, 3), 1 / 3))
    torch.testing.assert_close(balanced(blocks, 5), expected)


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_relpos_base_patch16_224"])
def test_maps_too_large_to_store_have_the_same_sum(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the relative position bias of a network."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=3, embed_dim=48, num_heads=4, img_size=64).eval()
    for key, weight in model.named_parameters():
        if "rel_pos" in key:
            torch.nn.init.normal_(weight, std=2.0)
    backbone, image = load_backbone(model=model), torch.rand(1, 3, 64, 64)
    stored = dense_features(backbone, image, load_attention("cliper"))
    monkeypatch.setattr("sclip_lab.attention.cliper.LARGEST_KEPT", 0)
    by_head = dense_features(backbone, image, load_attention("cliper"))
    torch.testing.assert_close(by_head, stored, atol=1e-6, rtol=0)


def test_the_last_level_is_cliper_itself() -> None:
    backbone, image = toy.network(), toy.inputs()["sq224_a"]
    last = dense_features(backbone, image, load_attention("cliper_level", source=-1))
    torch.testing.assert_close(
        last, dense_features(backbone, image, load_attention("cliper")), atol=0, rtol=0
    )


def test_a_prior_changes_the_maps_that_are_summed() -> None:
    backbone, image = toy.network(), toy.inputs()["sq224_a"]
    plain = dense_features(backbone, image, load_attention("cliper"))
    local = dense_features(backbone, image, load_attention("cliper", prior="window"))
    assert (plain - local).abs().max() > 0.1


def test_the_first_block_has_nothing_to_sum() -> None:
    with pytest.raises(LabError, match="no earlier attention"):
        dense_features(toy.network(), toy.inputs()["sq224_a"], load_attention("cliper", layers=[0]))
    with pytest.raises(LabError, match="rounds -1"):
        cliper(toy.context(toy.network(), toy.inputs()["sq224_a"]), rounds=-1)

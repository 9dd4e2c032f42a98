"""Spatial priors: the official Gaussian, windows by hand, and what they do to weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sclip_lab.attention.identity import identity
from sclip_lab.attention.prior import gaussian, window
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.dense_features import dense_features


def test_gaussian_by_hand() -> None:
    prior = gaussian((2, 3), 2.0)
    assert (prior[0] == 0).all()
    assert (prior[:, 0] == 0).all()
    assert prior[1, 1] == 1
    # Patches 0 and 5 are one row and two columns apart.
    assert prior[1, 6].item() == pytest.approx(torch.tensor(-5 / 8).exp().item())


@pytest.mark.parametrize(("radius", "observed"), [(0, 1), (1, 4), (2, 9), (9, 12)])
def test_window_of_a_corner(radius: int, observed: int) -> None:
    prior = window((3, 4), radius)
    assert (prior[0] == 0).all()
    assert (prior[1] == 0).sum() == observed
    assert torch.isneginf(prior[1:, 0]).all()


def test_window_equals_a_loop() -> None:
    height, width, radius = 3, 5, 1
    prior = window((height, width), radius)
    for i in range(height * width):
        for j in range(height * width):
            (y, x), (v, u) = divmod(i, width), divmod(j, width)
            inside = abs(y - v) <= radius and abs(x - u) <= radius
            assert (prior[1 + i, 1 + j] == 0) == inside


def test_radius_0_is_attention_to_self(backbone: Backbone, images: Tensor) -> None:
    # The class token's own attention differs, but no patch looks at it.
    local = load_attention("local", prior={"radius": 0})
    ours = dense_features(backbone, images, local)
    expected = dense_features(backbone, images, load_attention("maskclip"))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert identity.__name__ in load_attention("maskclip").config["_target_"]


def test_window_wider_than_the_grid_only_closes_the_class_token(
    backbone: Backbone, images: Tensor
) -> None:
    local = load_attention("local", prior={"radius": 8})
    open_window = load_attention("vanilla", class_token=False)
    torch.testing.assert_close(
        dense_features(backbone, images, local), dense_features(backbone, images, open_window)
    )


def test_bad_input() -> None:
    with pytest.raises(LabError, match="sigma 0"):
        gaussian((2, 2), 0)
    with pytest.raises(LabError, match="radius -1"):
        window((2, 2), -1)

"""Windows of one photo attend to each other: against one big window, and never across photos."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sclip_lab.attention.windows_together import gathered, neighbourhood_mean, weights_across
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import Guidance, Placement, Scene
from sclip_lab.segmentation.encoded import encode


def patches(backbone: Backbone, images: Tensor, scene: Scene | None, **over: object) -> Tensor:
    [(_, one)] = encode(backbone, images, [load_attention("gla", **over)], scene=scene)
    return one.patches


def together(*counts: int) -> Scene:
    """Photos of so many windows each, side by side."""
    placed, start = [], 0
    for count in counts:
        corners = tuple((0, 64 * i) for i in range(count))
        placed.append(Placement(slice(start, start + count), corners, (64, 64 * count), 16))
        start += count
    return Scene(tuple(placed))


def test_a_batch_of_photos_is_each_photo_alone(backbone: Backbone) -> None:
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    batch = patches(backbone, images, together(2, 3))
    first = patches(backbone, images[:2], together(2))
    second = patches(backbone, images[2:], together(3))
    torch.testing.assert_close(batch, torch.cat([first, second]), atol=2e-5, rtol=0)
    apart = patches(backbone, images, None)
    assert (batch - apart).abs().max() > 1e-3


def test_equal_windows_are_one_window(backbone: Backbone) -> None:
    """The same window twice: every key twice, which no softmax over all of them can see."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for over in ({"anchors": None}, {"anchors": None, "norm": "photo"}, {"anchors": "patch"}):
        one = patches(backbone, image, together(1), **over)
        two = patches(backbone, image.repeat(2, 1, 1, 1), together(2), **over)
        torch.testing.assert_close(two, one.repeat(2, 1, 1, 1), atol=2e-5, rtol=0)


def test_neighbourhood_by_hand() -> None:
    features = torch.arange(8.0)[:, None]  # two windows of 2 x 2
    pixels = torch.tensor([0, 1, 2, 3, 3, 5, 6, 7])  # the first's last patch is the second's first
    result = neighbourhood_mean(features, pixels, 2, (2, 2), include_self=True)[:, 0]
    torch.testing.assert_close(result[0], torch.tensor((0 + 1 + 2 + 3) / 4))
    torch.testing.assert_close(result[3], torch.tensor((0 + 1 + 2 + 3 + 4) / 5))
    result = neighbourhood_mean(features, pixels, 2, (2, 2), include_self=False)[:, 0]
    torch.testing.assert_close(result[4], torch.tensor((3 + 5 + 6 + 7) / 4))


def test_neighbourhood_of_one_row() -> None:
    result = neighbourhood_mean(torch.arange(4.0)[:, None], torch.arange(4), 1, (1, 4), False)[:, 0]
    assert result.tolist() == [1.0, 1.0, 2.0, 2.0]


def test_anchors_by_hand() -> None:
    keys = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=-1)
    anchors, count = gathered(keys, keys, 2, 0.9)
    assert count.tolist() == [2, 2, 1]
    mean = torch.nn.functional.normalize(keys[0] + keys[1], dim=0)
    torch.testing.assert_close(anchors, torch.stack([mean, mean, keys[2]]))
    # Nothing above the threshold: the patch itself.
    _, count = gathered(keys, keys, 1, 1.1)
    assert count.tolist() == [1, 1, 1]


def test_weights_across_by_hand() -> None:
    keys = torch.eye(3)
    result = weights_across(keys, keys, beta=1.0, gamma=3.0)
    assert torch.equal(result, torch.eye(3))  # mean 1/3: the others are below it
    result = weights_across(keys, keys, beta=0.0, gamma=3.0, norm="photo")
    torch.testing.assert_close(result, torch.softmax(3 * keys, dim=-1))
    # All below: the largest stays.
    assert torch.equal(weights_across(keys, keys, beta=9.0, gamma=1.0), torch.eye(3))


def test_guided_windows(backbone: Backbone) -> None:
    """One-hot features of two equal windows: each place averages its two copies."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    other = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    images = torch.cat([image, other])
    features = torch.eye(16).view(16, 4, 4).expand(2, -1, -1, -1)
    scene = Scene(together(2).photos, Guidance(lambda: features))
    variants = [
        load_attention("gla_proxy", dynamic_gamma=0.0),
        load_attention("maskclip", residual=False, mlp=False),
    ]
    result = dict(encode(backbone, images, variants, scene=scene))
    tokens, alone = (result[i].state.tokens[:, 1:] for i in (0, 1))
    torch.testing.assert_close(
        tokens, alone.mean(0, keepdim=True).expand(2, -1, -1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"anchors": "patches"}, "did you mean patch"),
        ({"norm": "tokens"}, "did you mean token"),
        ({"source": "keys"}, "did you mean key"),
        ({"anchors": None, "dynamic_gamma": 30.0}, "dynamic_gamma needs anchors"),
    ],
)
def test_what_is_refused(backbone: Backbone, images: Tensor, over: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        patches(backbone, images, None, **over)

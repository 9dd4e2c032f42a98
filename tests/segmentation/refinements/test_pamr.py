"""PAMR: the official outputs, a restatement by unfold, and what must hold for any input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.refinements.pamr import affinity, pamr


def unfolded(x: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """(planes, height, width) -> (planes, 9 * dilations, height, width), by torch's unfold."""
    parts = []
    for dilation in dilations:
        padded = F.pad(x[:, None], (dilation,) * 4, mode="replicate")
        parts.append(F.unfold(padded, 3, dilation=dilation).view(len(x), 9, *x.shape[-2:]))
    return torch.cat(parts, dim=1)


def reference(image: Tensor, mask: Tensor, steps: int, dilations: tuple[int, ...]) -> Tensor:
    samples = unfolded(image, dilations)
    outer = [i for i in range(samples.shape[1]) if i % 9 != 4]
    scores = -(samples[:, outer] - image[:, None]).abs()
    scores = scores / (1e-8 + 0.1 * samples.std(dim=1, keepdim=True))
    weights = scores.mean(0).softmax(0)
    for _ in range(steps):
        mask = (unfolded(mask, dilations)[:, outer] * weights).sum(1)
    return mask


@pytest.mark.parametrize("size", [(20, 31), (5, 7)], ids=str)
def test_equals_unfold(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image, mask = torch.randn(3, *size), torch.randn(4, *size)
    expected = reference(image, mask, 3, (1, 8))
    torch.testing.assert_close(pamr(image, mask, 3, (1, 8)), expected, atol=1e-5, rtol=0)


def test_affinity_sums_to_one() -> None:
    torch.manual_seed(0)
    weights = affinity(torch.randn(3, 13, 17), (2, 5))
    assert weights.shape == (16, 13, 17)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(0), torch.ones(13, 17))


def test_constant_photo_weighs_all_neighbours_alike() -> None:
    weights = affinity(torch.full((3, 9, 9), 0.7), (1, 2))
    torch.testing.assert_close(weights, torch.full((16, 9, 9), 1 / 16))
    mask = torch.zeros(1, 9, 9)
    mask[0, 4, 4] = 16.0
    assert pamr(torch.zeros(3, 9, 9), mask, 1, (1, 2))[0, 4, 5].item() == pytest.approx(1.0)


def test_constant_mask_stays_and_values_stay_in_range() -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 24, 30)
    constant = torch.tensor([2.0, -3.0])[:, None, None].expand(2, 24, 30)
    torch.testing.assert_close(pamr(image, constant), constant.contiguous(), atol=1e-5, rtol=0)
    mask = torch.rand(2, 24, 30)
    refined = pamr(image, mask)
    assert mask.min() - 1e-6 <= refined.min()
    assert refined.max() <= mask.max() + 1e-6


def test_does_not_leak_over_an_edge() -> None:
    image = torch.zeros(3, 16, 16)
    image[:, :, 8:] = 1.0
    mask = image[:1].clone()
    torch.testing.assert_close(pamr(image, mask, 5, (1, 2)), mask, atol=0.05, rtol=0)


def test_queries_do_not_mix() -> None:
    torch.manual_seed(0)
    image, mask = torch.randn(3, 12, 12), torch.randn(3, 6, 6)
    alone = torch.cat([pamr(image, row[None]) for row in mask])
    assert torch.equal(pamr(image, mask), alone)


def test_no_steps_only_resizes() -> None:
    image, mask = torch.zeros(3, 5, 9), torch.arange(6.0).view(1, 2, 3)
    refined = pamr(image, mask, steps=0)
    assert refined.shape == (1, 5, 9)
    assert refined[0, 0, 0] == 0
    assert refined[0, -1, -1] == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": -1}, "steps -1"),
        ({"dilations": ()}, "at least one"),
        ({"dilations": (0, 4)}, "1 or more"),
    ],
)
def test_bad_input(options: dict, says: str) -> None:
    with pytest.raises(LabError, match=says):
        pamr(torch.zeros(3, 8, 8), torch.zeros(1, 8, 8), **options)

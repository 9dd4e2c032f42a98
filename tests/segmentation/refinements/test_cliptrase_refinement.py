"""CLIPtrase's clustering, against the official code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.context import BlockInput
from sclip_lab.segmentation.refinements import cliptrase as clustering
from tests import toy

SETTINGS = [
    ("sq224_a", 0.7, 3),
    ("sq224_b", 0.7, 3),
    ("sq224_a", 1.1, 7),
    ("sq256", 1.1, 7),
]
FOREGROUND = 6  # of the 8 text rows; the others are background names
TEXT = toy.text()


def correlation(name: str, block: int = -2) -> Tensor:
    """(tokens, tokens) in one block of the network as trained."""
    context = toy.context(toy.network(), toy.inputs()[name])
    entered: BlockInput = (*context.history, context.input)[block]
    with torch.inference_mode():
        return clustering.self_correlation(entered)[0]


def test_regions_of_an_image_that_is_not_square() -> None:
    rows = clustering.affinity(correlation("rect224x336"))
    result = clustering.clusters(rows, eps=1.1, min_samples=5)
    region = clustering.regions(rows, result, (14, 21), (224, 336))
    assert region.shape == (224, 336)
    assert 0 <= int(region.min()) <= int(region.max()) <= result.max()


def test_windows_are_refused() -> None:
    image = toy.inputs()["sq224_a"].expand(2, -1, -1, -1)
    encoded = toy.encoded(toy.network(), image, load_attention("csa"))
    with pytest.raises(LabError, match="crop_size=null"):
        clustering.cliptrase(torch.zeros(8, 8, dtype=torch.uint8), encoded)


def test_vote() -> None:
    prediction = torch.tensor([[4, 1, 4, 2], [1, 3, 2, 2]])
    region = torch.tensor([[0, 0, -1, 7], [0, 0, 7, 7]])
    # Region 0 has 4, 1, 1, 3; noise keeps its 4.
    assert clustering.vote(prediction, region).tolist() == [[1, 1, 4, 2], [1, 1, 2, 2]]
    tie = clustering.vote(torch.tensor([[5, 3]]), torch.tensor([[0, 0]]))
    assert tie.tolist() == [[3, 3]]


def test_two_groups_of_patches_are_two_regions() -> None:
    grid, left = (4, 6), (torch.arange(24) % 6) < 3
    same = (left[:, None] == left[None]).float()
    labels = clustering.clusters(same, eps=0.5, min_samples=3)
    region = clustering.regions(same, labels, grid, (64, 96))
    expected = torch.zeros(64, 96, dtype=torch.long)
    expected[:, 48:] = 1
    assert torch.equal(region, expected)


def test_noise_only_keeps_the_prediction() -> None:
    rows = torch.eye(6)
    labels = clustering.clusters(rows, eps=0.1, min_samples=3)
    region = clustering.regions(rows, labels, (2, 3), (32, 48))
    prediction = torch.arange(32 * 48).view(32, 48) % 5
    assert torch.equal(clustering.vote(prediction, region), prediction)

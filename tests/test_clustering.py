"""CLIPtrase's clustering, against the official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab import clustering
from sclip_lab.features import dense_features
from tests import toy, vectors
from tests.test_parity import CASES, WEIGHTS, difference, run, setup

SETTINGS = [
    ("sq224_a", 0.7, 3),
    ("sq224_b", 0.7, 3),
    ("sq224_a", 1.1, 7),
    ("sq256", 1.1, 7),
]
FOREGROUND = 6  # of the 8 text rows; the others are background names
TEXT = toy.text()


def logits(image: Tensor, text: Tensor, by_class_token: bool = False) -> Tensor:
    """(queries, height, width) cosines, as in the official pipeline."""
    backbone, variant = setup(CASES["cliptrase"])
    features = dense_features(backbone, image, variant, normalize=True)[0]
    result = features @ text.T
    if by_class_token:
        class_embedding = run(backbone, variant, image)[1][0]
        result = result * (class_embedding @ text.T / class_embedding.norm())
    patches = result.permute(2, 0, 1)[None]
    return F.interpolate(patches, image.shape[-2:], mode="bilinear")[0]


@pytest.mark.parametrize("name", ["sq224_a", "sq224_b", "rect224x336", "rect336x448"])
def test_self_correlation(name: str) -> None:
    official = vectors.load("cliptrase")
    for layer, key in (("11/12", "selfcorr11"), ("12/12", "selfcorr12")):
        ours = clustering.correlation_at(toy.network(), toy.inputs()[name], layer)[0].numpy()
        rows = official[f"{name}__{key}_attn_rows"][0]
        index = official[f"{name}__{key}_attn_rows_index"]
        assert difference(ours[index], rows) <= WEIGHTS


@pytest.mark.parametrize(("name", "eps", "min_samples"), SETTINGS)
def test_clusters(name: str, eps: float, min_samples: int) -> None:
    correlation = clustering.correlation_at(toy.network(), toy.inputs()[name])[0]
    ours = clustering.clusters(clustering.affinity(correlation), eps, min_samples)
    official = vectors.load("cliptrase_pipeline")[f"{name}__eps{eps}_min{min_samples}__dbscan"]
    assert np.array_equal(ours, official)


@pytest.mark.parametrize("dataset", ["PC59", "VOC21", "VOC20"])
@pytest.mark.parametrize(("name", "eps", "min_samples"), SETTINGS)
def test_prediction(dataset: str, name: str, eps: float, min_samples: int) -> None:
    image = toy.inputs()[name]
    text = TEXT if dataset == "VOC21" else TEXT[:FOREGROUND]
    prediction = logits(image, text, by_class_token=dataset == "VOC20").argmax(dim=0)
    [region] = clustering.image_regions(toy.network(), image, eps, min_samples)
    ours = clustering.vote(prediction, region).clamp(max=FOREGROUND)  # background names: one class
    official = vectors.load("cliptrase_pipeline")
    assert np.array_equal(
        ours.numpy(), official[f"{dataset}__{name}__eps{eps}_min{min_samples}__pred"]
    )


def test_regions_of_an_image_that_is_not_square() -> None:
    region = clustering.image_regions(
        toy.network(), toy.inputs()["rect224x336"], eps=1.1, min_samples=5
    )
    assert region.shape == (1, 224, 336)


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

"""Outlier tests and repair: official index sets, scikit-learn, a loop in numpy, properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor

from sclip_lab.attention import repair
from sclip_lab.attention.repair import (
    class_attention_mask,
    lof_mask,
    lof_scores,
    norm_mask,
    repaired,
)
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.dense_features import dense_features
from tests import toy


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def places(mask: Tensor) -> list[int]:
    return mask[0].nonzero().flatten().tolist()


def test_lof_with_one_neighbour_is_scikit_learns() -> None:
    # For k = 1 the reachability distance is the k-distance itself.
    points = draw(3, 90, 7)
    ours = lof_scores(points, neighbours=1).numpy()
    for row, image in zip(ours, points.numpy(), strict=True):
        oracle = LocalOutlierFactor(n_neighbors=1, metric="sqeuclidean").fit(image)
        np.testing.assert_allclose(row, -oracle.negative_outlier_factor_, rtol=1e-4)


def test_lof_from_scikit_learns_neighbours() -> None:
    points = draw(2, 200, 16)
    ours = lof_scores(points, neighbours=30).numpy()
    for row, image in zip(ours, points.double().numpy(), strict=True):
        distance, index = NearestNeighbors(n_neighbors=30).fit(image).kneighbors()
        reach = distance[:, -1] ** 2
        np.testing.assert_allclose(row, reach * (1 / reach)[index].mean(1), rtol=1e-5)


def test_lof_finds_a_stray_point() -> None:
    points = draw(1, 100, 8)
    points[0, 17] += 20
    assert int(lof_scores(points).argmax()) == 17
    # Far from the origin the expanded square must not lose it.
    assert int(lof_scores(points + 3000).argmax()) == 17


def test_lof_of_equal_patches_and_of_one() -> None:
    assert lof_scores(torch.ones(1, 40, 5)).tolist() == [[1.0] * 40]
    assert not lof_mask(torch.ones(1, 40, 5)).any()
    assert not lof_mask(draw(2, 1, 5)).any()
    assert torch.isfinite(lof_scores(draw(1, 4, 5), neighbours=30)).all()  # fewer than k


def test_norm_mask_by_hand() -> None:
    patches = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, 2.0]]])
    assert places(norm_mask(patches, count=2)) == [0, 2]
    assert places(norm_mask(patches, count=3, threshold=4.0)) == [0, 2]
    assert places(norm_mask(patches, count=None, threshold=1.5)) == [0, 2, 3]
    assert places(norm_mask(patches, count=0)) == []
    assert places(norm_mask(patches, count=99)) == [0, 1, 2, 3]


def test_class_attention_mask_by_hand() -> None:
    attention = torch.zeros(1, 1, 5, 5)
    attention[0, 0, 0, 1:] = torch.tensor([0.4, 0.2, 0.3, 0.1])
    attention[0, 0].diagonal()[1:] = torch.tensor([0.9, 0.1, 0.1, 0.01])
    assert places(class_attention_mask(attention, factor=1.5)) == [1, 2, 3]
    assert places(class_attention_mask(attention, factor=1.5, count=2)) == [1, 2]
    assert places(class_attention_mask(attention, factor=3.0, count=1)) == [0]


@pytest.mark.parametrize("isolated", ["keep", "zero"])
@pytest.mark.parametrize("grid", [(5, 9), (9, 5), (1, 7), (3, 1), (1, 1)])
def test_repair_equals_a_loop(grid: tuple[int, int], isolated: str) -> None:
    height, width = grid
    tokens = draw(3, 1 + height * width, 4)
    mask = draw(3, height * width, seed=1) > 0  # about half, so that some stand alone
    expected = tokens.clone()
    for b in range(3):
        for i in places(mask[b : b + 1]):
            row, column = divmod(i, width)
            around = [
                r * width + c
                for r in range(max(row - 1, 0), min(row + 2, height))
                for c in range(max(column - 1, 0), min(column + 2, width))
                if not mask[b, r * width + c]
            ]
            if around:
                expected[b, 1 + i] = tokens[b, [1 + j for j in around]].mean(0)
            elif isolated == "zero":
                expected[b, 1 + i] = 0
    torch.testing.assert_close(repaired(tokens, mask, grid, isolated), expected)


def test_repair_leaves_clean_tokens_bit_for_bit() -> None:
    tokens, mask = draw(2, 13, 4), torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 5] = True
    tokens[0, 6] = torch.inf  # patch 5; must not reach its neighbours
    out = repaired(tokens, mask, (3, 4))
    same = torch.cat([torch.ones(2, 1, dtype=torch.bool), ~mask], dim=1)
    assert torch.equal(out[same], tokens[same])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", ["lof", "norm", "class_attention"])
@pytest.mark.parametrize("image", ["sq224_a", "rect224x336"])
def test_repair_before_attention_is_attention_of_repaired_tokens(name: str, image: str) -> None:
    # Any weights function, here two; the repaired block equals a block that is fed the repaired.
    backbone, x = toy.network(), toy.inputs()[image]
    ctx = toy.context(backbone, x)
    with torch.inference_mode():
        tokens = getattr(repair, name)(ctx)
        normed = ctx.block.norm(tokens)
        q, k, v = (ctx.block.project(normed, p) for p in ("query", "key", "value"))
        s = ctx.block.scale
        for attention, weights in (
            ("vanilla", torch.softmax(s * q @ k.transpose(-2, -1), -1)),
            ("clearclip", torch.softmax(s * q @ q.transpose(-2, -1), -1)),
        ):
            out = ctx.block.merge(weights @ v)
            if attention == "vanilla":
                out = tokens + out
                out = out + ctx.block.mlp(out)
            visual = backbone.model.visual
            expected = (visual.ln_post(out) @ visual.proj)[0, 1:]
            ours = dense_features(backbone, x, load_attention(attention, repair=name))
            torch.testing.assert_close(ours[0].flatten(0, 1), expected, atol=1e-5, rtol=1e-5)
            plain = dense_features(backbone, x, load_attention(attention))
            assert (ours - plain).abs().max() > 0.01


@pytest.mark.parametrize("repair", ["lof", "norm", "class_attention"])
@pytest.mark.parametrize("attention", ["csa", "gem", "naclip", "scclip", "resclip", "maskclip"])
def test_any_repair_goes_before_any_attention(attention: str, repair: str) -> None:
    x = torch.cat([toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]])
    variant = load_attention(attention, repair=repair)
    both = dense_features(toy.network(), x, variant)
    singles = torch.cat([dense_features(toy.network(), one[None], variant) for one in x])
    assert torch.isfinite(both).all()
    torch.testing.assert_close(both, singles, atol=1e-5, rtol=1e-5)


def test_class_attention_of_the_first_block() -> None:
    variant = load_attention("csa", repair="class_attention", layers=[0])
    assert torch.isfinite(dense_features(toy.network(), toy.inputs()["sq224_a"], variant)).all()


LOF = {"_target_": "sclip_lab.attention.repair.lof"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: lof_scores(draw(1, 5, 2), neighbours=0), "neighbours 0"),
        (lambda: lof_mask(draw(1, 5, 2), quantile=1.5), "quantile 1.5"),
        (lambda: norm_mask(draw(1, 5, 2), count=-1), "count -1"),
        (lambda: class_attention_mask(draw(1, 1, 5, 5), factor=0.0), "factor 0.0"),
        (lambda: load_attention("csa", repair=LOF | {"isolated": "kep"}), "did you mean keep"),
    ],
)
def test_refusals(call, says: str) -> None:
    with pytest.raises(LabError, match=says):
        call()

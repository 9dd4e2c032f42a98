"""Cosine similarities as weights and for averaging: a few patches by hand, properties."""

from __future__ import annotations

import math

import pytest
import torch

from sclip_lab.attention.similarity import averaged, cosine, cut_below, similarity
from tests import toy


def test_cosine_by_hand() -> None:
    tokens = torch.tensor([[[9.0, 9.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    half = math.sqrt(0.5)
    expected = torch.tensor([[[1, 0, half], [0, 1, half], [half, half, 1]]])
    torch.testing.assert_close(cosine(tokens), expected)


def test_cut_keeps_what_equals_it() -> None:
    assert cut_below(torch.tensor([[0.39, 0.4, -1.0]]), 0.4).tolist() == [
        [0, pytest.approx(0.4), 0]
    ]


def test_averaged_by_hand() -> None:
    tokens = torch.tensor([[[7.0], [1.0], [5.0]]])
    similarities = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    expected = torch.tensor([[[7.0], [3.0], [5.0]]])
    torch.testing.assert_close(averaged(tokens, similarities), expected, atol=1e-5, rtol=0)


def test_weights_are_a_distribution_over_similar_patches() -> None:
    ctx = toy.context(toy.network(), toy.inputs()["rect224x336"])
    with torch.inference_mode():
        weights = similarity(ctx, projections=[])
        near = cosine(ctx.after("9/12"))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    allowed = near >= near.mean()
    patches = weights[0, 0, 1:, 1:]
    assert not patches[~allowed[0]].any()
    assert (patches[allowed[0]] > 0).all()
    assert torch.equal(weights[0, 0, 0], torch.eye(weights.shape[-1])[0])
    # A likelier neighbour is a more similar one: the softmax keeps each row's order.
    row = allowed[0, 5]
    assert torch.equal(patches[5][row].argsort(), near[0, 5][row].argsort())

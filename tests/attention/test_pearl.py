"""PEARL on ADE20K and Cityscapes: a restatement that has the official arrays, at their values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from sclip_lab.attention.pearl import pearl
from sclip_lab.config.registry import load_attention, load_protocol
from sclip_lab.segmentation.refinements.laplacian import propagation
from tests import toy, vectors

ATTENTION, PROPAGATED = 1e-5, 2e-4  # rounding, see the official arrays' README
OFFICIAL_SHARE, OFFICIAL_SIDE = 0.08, 80  # with which the arrays were made


def attention(query: Tensor, key: Tensor, share: float) -> np.ndarray:
    """One head: (tokens, head_dim) each -> (tokens, tokens), in double precision."""
    q, k = query.double().numpy(), key.double().numpy()
    weight = np.linalg.norm(q, axis=1)
    weight[0] = 0
    weight /= weight.sum() + 1e-6
    centred_q, centred_k = q - weight @ q, k - weight @ k
    matrix = centred_k.T @ centred_q
    gram = matrix.T @ matrix
    size = max(np.linalg.norm(gram), 1e-6)
    one = np.eye(len(gram))
    y, z = gram / size + 1e-6 * one, one
    for _ in range(5):
        t = (3 * one - z @ y) / 2
        y, z = y @ t, t @ z
    rotation = matrix @ z / np.sqrt(size)
    scale = q.shape[1] ** -0.5
    raw = scale * (q @ (k @ rotation).T + share * centred_k @ centred_k.T)
    exponential = np.exp(raw - raw.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def propagated(logits: Tensor, image: Tensor, text: Tensor, side: int) -> np.ndarray:
    """(D + Laplacian) F = D L as one sparse matrix, 25 steps, in double precision."""
    size = logits.shape[-2:]
    pool = [max(1, round(length / side)) for length in size]
    if max(pool) > 1:
        logits, image = (F.avg_pool2d(x, pool) for x in (logits, image))
    values, grey = logits.double(), np.tensordot([0.299, 0.587, 0.114], image.double(), 1)
    height, width = grey.shape
    p = values.softmax(dim=0).flatten(1).numpy()
    share = (text.double() @ text.double().T / 0.5).softmax(dim=-1) + 10 * torch.eye(len(text))
    share = (share / (share.sum(dim=-1, keepdim=True) + 1e-6)).diagonal().numpy()[:, None]
    trust = np.maximum(p.max(axis=0), 0.05) ** 2 * (1 + (share * p * p).sum(axis=0).clip(0, 1))
    place = np.arange(height * width).reshape(height, width)
    neighbours = sparse.csr_array((place.size, place.size))
    for ahead, behind in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        step = np.abs(grey[ahead] - grey[behind])
        i, j = place[behind].ravel(), place[ahead].ravel()
        near = np.exp(-5 * step / (step.mean() + 1e-6)).ravel()
        near = np.minimum(1, near * (1 + (share * p[:, i] * p[:, j]).sum(axis=0).clip(0, 1)))
        pairs = sparse.coo_array((near, (i, j)), neighbours.shape).tocsr()
        neighbours = neighbours + pairs + pairs.T
    matrix = sparse.diags_array(trust + neighbours.sum(axis=1)) - neighbours
    start = values.flatten(1).numpy().T
    solution = start.copy()
    residual = trust[:, None] * start - matrix @ start
    direction = residual.copy()
    for _ in range(25):
        moved, square = matrix @ direction, (residual**2).sum()
        length = square / ((direction * moved).sum() + 1e-12)
        solution += length * direction
        residual = residual - length * moved
        direction = residual + (residual**2).sum() / (square + 1e-12) * direction
    solved = torch.from_numpy(solution.T).view(-1, height, width)
    if max(pool) > 1:
        solved = F.interpolate(solved[None], size, mode="bilinear", align_corners=False)[0]
    return solved.numpy()


@pytest.mark.parametrize("image", ["sq224_a", "rect224x336"])
def test_attention_of_ade20k_and_cityscapes(image: str) -> None:
    arrays = vectors.load("pearl")
    context = toy.context(toy.network(), toy.inputs()[image])
    heads = list(zip(context.query[0], context.key[0], strict=True))

    def restated(share: float) -> np.ndarray:
        return np.stack([attention(query, key, share) for query, key in heads])

    rows = arrays[f"{image}__attn_rows_index"]
    official = arrays[f"{image}__attn_rows"]
    np.testing.assert_allclose(restated(OFFICIAL_SHARE)[:, rows], official, atol=ATTENTION)
    for dataset in ("ade20k", "cityscapes"):
        share = load_attention("pearl", dataset=dataset, protocol="pearl").config["key_share"]
        assert share == 0.3
        ours = pearl(context, key_share=share)[0]
        np.testing.assert_allclose(ours, restated(share), atol=ATTENTION)


def test_propagation_of_cityscapes() -> None:
    arrays = vectors.load("pearl_tlp")
    text, coarse = (torch.from_numpy(arrays[key]) for key in ("text", "c__logits_coarse"))
    image = toy.inputs()["rect224x336"][0]
    logits = F.interpolate(coarse[None], image.shape[-2:], mode="bilinear")[0]
    places = arrays.get("c__out_s4__kept0", np.arange(len(logits)))
    restated = propagated(logits, image, text, OFFICIAL_SIDE)[places, ::4, ::4]
    np.testing.assert_allclose(restated, arrays["c__out_s4"], atol=PROPAGATED)

    refinement = load_protocol("pearl", "cityscapes").refinement
    assert refinement["side"] == 224
    image, logits = (
        F.interpolate(x[None], (512, 640), mode="bilinear")[0] for x in (image, logits)
    )
    ours = propagation(logits, image, text, side=refinement["side"])
    np.testing.assert_allclose(ours, propagated(logits, image, text, 224), atol=PROPAGATED)

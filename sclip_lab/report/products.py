"""How well a random projection keeps the inner products of tokens, by its dimension.

CSA through a random matrix W (width x m) uses X W W^T X^T for X X^T. With entries of variance 1/m
its expectation is X X^T, and the variance of each entry falls as 1/m (Johnson and Lindenstrauss),
so from some head_dim on any projection sees the same similarities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sclip_lab.report.figure import Figure
from sclip_lab.report.figures import COLORS, style

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec

SEEDS = 5
PHOTOS = 2


def normed_tokens(spec: Spec, photos: int = PHOTOS) -> np.ndarray:
    """(windows, patches, width) float64: what enters the last block's projections."""
    from sclip_lab.segmentation.pipeline import encode_photo

    found = []
    for index in range(min(photos, len(spec.dataset))):
        image = spec.dataset[index].image
        _, encoded = encode_photo(spec.backbone, image, spec.protocol, spec.attention)
        last = encoded.history[-1]
        found.append(last.normed[:, last.block.prefix :].double().cpu().numpy())
    return np.concatenate(found)


def preserved(tokens: np.ndarray, dims: list[int], seeds: int = SEEDS) -> np.ndarray:
    """(dims, seeds) correlation, over all pairs of patches of a window, of inner products before
    and after a random projection.

    Args:
        tokens: (windows, patches, width). dims: of the projection. seeds: matrices of each.
    """
    patches = tokens.shape[1]
    pairs = np.triu_indices(patches, 1)
    exact = (tokens @ tokens.transpose(0, 2, 1))[:, pairs[0], pairs[1]]
    result = np.empty((len(dims), seeds))
    for row, dim in enumerate(dims):
        for seed in range(seeds):
            matrix = np.random.default_rng([seed, dim]).standard_normal((tokens.shape[2], dim))
            small = tokens @ matrix / np.sqrt(dim)
            products = (small @ small.transpose(0, 2, 1))[:, pairs[0], pairs[1]]
            result[row, seed] = np.mean(
                [np.corrcoef(a, b)[0, 1] for a, b in zip(exact, products, strict=True)]
            )
    return result


def preserved_figure(spec: Spec) -> Figure:
    """`preserved` against the dimension, with the network's own head_dim marked."""
    with torch.inference_mode():
        tokens = normed_tokens(spec)
    width = tokens.shape[2]
    dims = [2**n for n in range(2, 11) if 2**n <= 2 * width]
    values = preserved(tokens, dims)
    block = spec.backbone.blocks[-1]
    own = width // block.num_heads
    with style():
        figure = Figure(figsize=(3.6, 2.7), layout="constrained")
        ax = figure.subplots()
        ax.plot(dims, values.mean(1), "o-", color=COLORS[0], markersize=3.5)
        ax.plot(np.repeat(dims, values.shape[1]), values.ravel(), ".", color="0.4", markersize=3)
        ax.axvline(own, color=COLORS[1], ls="--", lw=1, label=f"head_dim of this network: {own}")
        ax.set_xscale("log", base=2)
        ax.set_xticks(dims, [str(dim) for dim in dims])
        ax.set_xlabel("dimension of the random projection")
        ax.set_ylabel("correlation of inner products\nbefore and after (1 is best)")
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.set_label(
            "inner products of the last tokens before and after a random projection, by its "
            f"dimension; dots: {SEEDS} matrices each"
        )
    return figure

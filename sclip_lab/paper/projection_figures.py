"""What random projections keep: inner products of tokens, and the attention maps of variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import COLORS, Figure, charts, heat_map

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec

SEEDS = 5
PHOTOS = 2


def normed_tokens(spec: Spec, photos: int = PHOTOS) -> np.ndarray:
    """(windows, patches, width) float64: what enters the last block's projections."""
    from sclip_lab.segmentation.pipeline import encode_photo

    features = []
    for index in range(min(photos, len(spec.dataset))):
        image = spec.dataset[index].image
        _, encoded = encode_photo(spec.backbone, image, spec.protocol, spec.attention)
        last = encoded.history[-1]
        features.append(last.normed[:, last.block.prefix :].double().cpu().numpy())
    return np.concatenate(features)


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
    head_dim = width // block.num_heads
    with charts((3.6, 2.7)) as (figure, [ax]):
        ax.plot(dims, values.mean(1), "o-", color=COLORS[0], markersize=3.5)
        ax.plot(np.repeat(dims, values.shape[1]), values.ravel(), ".", color="0.4", markersize=3)
        ax.axvline(
            head_dim, color=COLORS[1], ls="--", lw=1, label=f"head_dim of this network: {head_dim}"
        )
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


def map_correlations(evidence: Evidence, specs: Sequence[str]) -> pd.DataFrame | None:
    """Pearson correlation of attention maps, averaged over the chosen points of all photos.

    Returns:
        names of ``specs`` by names of specs, each in -1 .. 1; None where fewer than two have maps.
    """
    maps: dict[str, list[np.ndarray]] = {spec: [] for spec in specs}
    for picture in evidence.pictures:
        by_spec = {p.spec: p.attention for p in picture.predictions if p.attention is not None}
        if set(specs) <= by_spec.keys():
            for spec in specs:
                maps[spec] += list(by_spec[spec].reshape(len(by_spec[spec]), -1))
    with_maps = [spec for spec in specs if maps[spec]]
    if len(with_maps) < 2:
        return None
    standard = {spec: np.stack([_standardised(m) for m in maps[spec]]) for spec in with_maps}
    values = [[float((standard[a] * standard[b]).mean()) for b in with_maps] for a in with_maps]
    names = [str(evidence.name(spec)) for spec in with_maps]
    return pd.DataFrame(values, index=names, columns=names)


def _standardised(values: np.ndarray) -> np.ndarray:
    centred = values.astype(np.float64) - values.mean()
    spread = centred.std()
    return centred / spread if spread > 0 else centred


def correlation_figure(correlations: pd.DataFrame) -> Figure:
    """Heat map of `map_correlations`."""
    size = 1.8 + 0.42 * len(correlations)
    with charts((size + 0.8, size)) as (figure, [ax]):
        heat_map(ax, correlations, vmin=-1, vmax=1, cmap="vlag", annot=True, fmt=".2f", square=True,
                 cbar_kws={"label": "correlation", "shrink": 0.7})  # fmt: skip
        ax.set_title("attention maps of two variants\n(mean over heads, chosen points)")
        figure.set_label("how alike the maps of two variants are; 1: they look at the same places")
    return figure

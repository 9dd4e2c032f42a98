"""What the explorer shows of one photo: attention, similarity and labels of every patch.

The photo is one window, so that every patch can look at every other. The evaluation cuts photos
into windows, so the labels here can differ from its predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.photos import resize, to_input
from sclip_lab.segmentation.pipeline import make_readout
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.cosine import unit

Floats = npt.NDArray[np.float32]
TOP = 5


@dataclass(frozen=True)
class VariantMaps:
    """One variant; P patches of grid_h x grid_w, row by row.

    Attributes:
        label: its name.
        attention: (P, P) weights averaged over heads; row i is where patch i looks. Columns are
            patches alone, so a row sums to at most the sum of the variant's row. None where the
            variant has no single map.
        heads: (sampled P, heads, pooled P) weights of each head, for every `Maps.stride`-th patch
            along both axes, averaged over squares of `Maps.pool` x `Maps.pool` patches that are
            looked at. None where ``attention`` is None.
        similarity: (P, P) cosine of patch embeddings, -1 .. 1.
        top: (P, up to 5) class ids, the most probable first.
        probability: (P, up to 5) probabilities of the classes in ``top``, 0 .. 1.
    """

    label: str
    attention: Floats | None
    heads: Floats | None
    similarity: Floats
    top: npt.NDArray[np.int64]
    probability: Floats


@dataclass(frozen=True)
class Maps:
    """All that a page shows.

    Attributes:
        image: (height, width, 3) uint8, the photo as the network saw it.
        grid: (grid_h, grid_w).
        classes: a name for each class.
        variants: in the order asked for.
        layers: (sampled P, depth, pooled P) attention weights of the trained blocks, averaged
            over heads.
        stride: ``layers`` and `VariantMaps.heads` show where every ``stride``-th patch looks.
        pool: side, in patches, of the squares over which these two average weights.
        mask: (height, width) class ids of the truth, or None.
        backbone: name of the network.
    """

    image: npt.NDArray[np.uint8]
    grid: tuple[int, int]
    classes: Sequence[str]
    variants: Sequence[VariantMaps]
    layers: Floats
    stride: int
    pool: int
    mask: npt.NDArray[np.int64] | None
    backbone: str


@torch.inference_mode()
def look(
    backbone: Backbone,
    image: npt.NDArray[np.uint8],
    attention: Mapping[str, Variant],
    vocabulary: Vocabulary,
    protocol: Protocol | None = None,
    mask: npt.NDArray[np.integer] | None = None,
    max_patches: int = 28 * 28,
) -> Maps:
    """Run all variants on one photo.

    Args:
        backbone: from `load_backbone`.
        image: (height, width, 3) uint8 RGB.
        attention: variants by label.
        vocabulary: the classes to choose from.
        protocol: resize, prompts, scale and readout; its windows are not used.
        mask: (height, width) class ids, drawn as an outline.
        max_patches: larger photos are made smaller until they have at most so many.

    Raises:
        LabError: no variant, a mask of another size, or an image that is not (h, w, 3) uint8.
    """
    if not attention:
        raise LabError("name at least one attention variant to explore")
    if mask is not None and mask.shape != image.shape[:2]:
        raise LabError(f"mask of {mask.shape} pixels for a photo of {image.shape[:2]}")
    protocol = protocol or Protocol()
    size, grid = _fitted(protocol.resized(*image.shape[:2]), backbone.patch_size, max_patches)
    window = to_input(image, size, backbone)[None]
    readout = make_readout(backbone, vocabulary, protocol)
    # Weights of all pairs of patches in every head would be a hundred megabytes.
    stride, pool = max(1, -(-max(grid) // 7)), max(1, -(-max(grid) // 14))
    variants, labels = list(attention.values()), list(attention)
    by_index: dict[int, VariantMaps] = {}
    layers: Floats | None = None
    for index, encoded in encode(backbone, window, variants, protocol.position_embedding):
        by_index[index] = _maps(labels[index], encoded, readout, grid, stride, pool)
        if layers is None:
            layers = _layers(encoded.history, grid, stride, pool)
    assert layers is not None
    return Maps(
        image=resize(image, size),
        grid=grid,
        classes=vocabulary.names,
        variants=[by_index[index] for index in range(len(variants))],
        layers=layers,
        stride=stride,
        pool=pool,
        mask=None if mask is None else _nearest(mask, size),
        backbone=backbone.name,
    )


def sampled(grid: tuple[int, int], stride: int) -> npt.NDArray[np.int64]:
    """Indices of every ``stride``-th patch along both axes, row by row."""
    rows, columns = np.arange(0, grid[0], stride), np.arange(0, grid[1], stride)
    return (rows[:, None] * grid[1] + columns).ravel()


def _fitted(
    size: tuple[int, int], patch: int, most: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A size in pixels of whole patches, at most ``most`` of them, in about the shape of ``size``;
    and its grid."""
    grid = [max(1, round(side / patch)) for side in size]
    while grid[0] * grid[1] > most:
        longer = 0 if grid[0] / size[0] >= grid[1] / size[1] else 1
        grid[longer] -= 1
    return (grid[0] * patch, grid[1] * patch), (grid[0], grid[1])


def _maps(
    label: str,
    encoded: Encoded,
    readout: Readout,
    grid: tuple[int, int],
    stride: int,
    pool: int,
) -> VariantMaps:
    patches = unit(encoded.patches.float())[0].flatten(0, 1)
    scaled = readout.protocol.logit_scale * readout.patch_logits(encoded)[0].flatten(0, 1)
    queries = torch.softmax(scaled.float(), dim=-1)
    classes = readout.query_classes.to(queries.device).expand(len(queries), -1)
    of_class = torch.zeros(len(queries), readout.num_classes, device=queries.device)
    of_class = of_class.scatter_reduce(1, classes, queries, "amax")
    probability, top = of_class.topk(min(TOP, of_class.shape[1]), dim=-1)
    mean = heads = None
    weights = encoded.state.attention
    if weights is not None:
        weights_of_patches = _among_patches(weights[0].float(), grid)
        mean = weights_of_patches.mean(0).cpu().numpy()
        shown = weights_of_patches[:, torch.from_numpy(sampled(grid, stride))].transpose(0, 1)
        heads = _pooled(shown, grid, pool).cpu().numpy()
    return VariantMaps(
        label=label,
        attention=mean,
        heads=heads,
        similarity=(patches @ patches.T).cpu().numpy(),
        top=top.cpu().numpy(),
        probability=probability.cpu().numpy(),
    )


def _layers(history: Sequence[BlockInput], grid: tuple[int, int], stride: int, pool: int) -> Floats:
    places = torch.from_numpy(sampled(grid, stride))
    means = [_among_patches(entered.attention()[0], grid).mean(0)[places] for entered in history]
    return _pooled(torch.stack(means, dim=1).float(), grid, pool).cpu().numpy()


def _among_patches(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """(heads, tokens, tokens) -> (heads, P, P): the patches are the last P tokens."""
    count = grid[0] * grid[1]
    return weights[:, -count:, -count:]


def _pooled(maps: Tensor, grid: tuple[int, int], pool: int) -> Tensor:
    """Average maps (..., P) over squares of patches, cut at the lower and right border."""
    flat = maps.flatten(0, -2).unflatten(1, grid)[:, None]
    means = F.avg_pool2d(flat, pool, ceil_mode=True, count_include_pad=False)
    return means.flatten(1).unflatten(0, maps.shape[:-1])


def _nearest(mask: npt.NDArray[np.integer], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    columns = np.arange(size[1]) * mask.shape[1] // size[1]
    return mask[rows][:, columns].astype(np.int64)

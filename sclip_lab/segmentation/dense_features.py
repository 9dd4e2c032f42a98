"""Dense features and attention maps of one variant, as plain functions of images."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import Context, Grid, State
from sclip_lab.network.depth import Layer, resolve
from sclip_lab.network.scene import Guidance, Scene, alone
from sclip_lab.network.text import Text
from sclip_lab.network.truth import PatchLabels
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.readouts.cosine import unit

if TYPE_CHECKING:
    from sclip_lab.network.guidance import Guide


def dense_features(
    backbone: Backbone,
    images: Tensor | np.ndarray,
    attention: Variant,
    normalize: bool = False,
    position_embedding: str | None = None,
    guidance: Guide | None = None,
    text: Text | Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Patch embeddings in the space of text embeddings.

    Args:
        images: (batch, 3, height, width); floating point: already normalised; uint8: RGB.
        normalize: divide each embedding by its norm.
        position_embedding: rule for grids of another size; by default the backbone's.
        guidance: a second network, for variants that read one.
        text: for variants that read texts: (texts, embed_dim) unit embeddings, or a `Text`, which
            also has auxiliary words.
        labels: for variants that read ground truth: (batch, grid_h, grid_w) class ids of the
            patches, -1 for unknown.

    Returns:
        (batch, grid_h, grid_w, embed_dim) float32, on the guidance's grid if the variant takes
        that; pixels beyond the last whole patch have no embedding. The tensor may enter a
        computation with gradients, but has none itself.

    Raises:
        LabError: a wrong shape, a layer out of range, an unknown rule, or features that are not
            finite.
    """
    encoded = _encoded(backbone, images, attention, position_embedding, guidance, text, labels)
    with torch.inference_mode():
        patches = encoded.patches.float()
        patches = unit(patches) if normalize else patches
    return _finite(patches, "features", backbone, attention)


class AttentionMaps(NamedTuple):
    """Attention weights of one image in one block.

    Attributes:
        weights: (heads, queries, keys). Queries and keys are all tokens (class and register tokens,
            if there are any, then patches row by row), or patches alone.
        grid: (grid_h, grid_w) of the patches.
    """

    weights: Tensor
    grid: Grid


def attention_maps(
    backbone: Backbone,
    image: Tensor | np.ndarray,
    attention: Variant,
    layer: Layer = -1,
    position_embedding: str | None = None,
    guidance: Guide | None = None,
    text: Text | Tensor | None = None,
    labels: Tensor | None = None,
) -> AttentionMaps:
    """The attention weights of every head in one block.

    Args:
        image: (3, height, width) or (1, 3, height, width); precision and other arguments as for
            `dense_features`.
        layer: a block, as an index (-1 the last) or a fraction of depth. A block that the variant
            does not rewrite has the network's own weights.

    Returns:
        float32 weights. The sum of a row depends on the variant: 1 for one softmax, 2 for CSA.

    Raises:
        LabError: several images, a layer out of range, a block edit without a single map, or
            weights that are not finite.
    """
    images = torch.as_tensor(image)
    images = images[None] if images.ndim == 3 else images
    if len(images) != 1:
        raise LabError(f"attention_maps of {len(images)} images; give one")
    encoded = _encoded(backbone, images, attention, position_embedding, guidance, text, labels)
    index = resolve(layer, backbone.depth)
    with torch.inference_mode():
        entered = encoded.history[index]
        if index not in encoded.variant.layers(backbone.depth):
            weights = _finite(entered.attention()[0].float(), "weights", backbone, attention)
            return AttentionMaps(weights, encoded.grid)
        context = Context(entered, encoded.history[:index], encoded.grid, scene=encoded.scene)
        state = encoded.variant.apply(entered, State(entered.tokens), context)
    if state.attention is None:
        raise LabError(f"attention '{attention.name}' has no single map of weights in a block")
    weights = _finite(state.attention[0].float(), "weights", backbone, attention)
    return AttentionMaps(weights, state.grid or encoded.grid)


def _finite(values: Tensor, what: str, backbone: Backbone, attention: Variant) -> Tensor:
    """Return the values as a tensor that autograd takes; refuse values that are not finite."""
    if not bool(torch.isfinite(values).all()):
        lower = backbone.dtype != torch.float32
        advice = "; its numbers are too large for this precision, take fp32" if lower else ""
        raise LabError(
            f"backbone {backbone.name} with attention '{attention.name}': {what} in "
            f"{str(backbone.dtype).removeprefix('torch.')} are not finite{advice}"
        )
    return values.clone()


def _encoded(
    backbone: Backbone,
    images: Tensor | np.ndarray,
    attention: Variant,
    position_embedding: str | None,
    guidance: Guide | None,
    text: Text | Tensor | None,
    labels: Tensor | None = None,
) -> Encoded:
    images = torch.as_tensor(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise LabError(
            f"images of shape {tuple(images.shape)}; they must be (batch, 3, height, width)"
        )
    if images.dtype == torch.uint8:
        images = backbone.normalise(images)
    elif not images.is_floating_point():
        raise LabError(f"images of {images.dtype}; give uint8 RGB, or normalised floats")
    elif images.any() and images.min() >= 0 and not 1 < images.max() < 20:
        warnings.warn(
            f"images are floats of {images.min():.2g} .. {images.max():.2g}, which are taken as "
            "normalised; give uint8 RGB if they are not",
            stacklevel=4,
        )
    if text is not None:
        attention = attention.given(text if isinstance(text, Text) else Text.of(text))
    size = images.shape[-2], images.shape[-1]
    scene = Scene(alone(len(images), size, backbone.patch_size))
    if guidance is not None:
        look = partial(guidance.of_windows, backbone=backbone)
        scene = replace(scene, guidance=Guidance(lambda: look(images), look))
    if labels is not None:
        grid = (len(images), *backbone.grid(*size))
        if tuple(labels.shape) != grid or labels.is_floating_point():
            raise LabError(f"labels of shape {tuple(labels.shape)}: expected whole numbers, {grid}")
        scene = replace(scene, labels=PatchLabels.of(labels))
    # `encode` sets this mode itself, but not where tests wrap it in a checker of shapes: they would
    # then run torch's matrix products in place of oneDNN's.
    with torch.inference_mode():
        [(_, encoded)] = encode(backbone, images, [attention], position_embedding, scene=scene)
    return encoded

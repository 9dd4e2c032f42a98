"""Dense features of one variant: the plain function under everything else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import Scene, alone, seen
from sclip_lab.network.text import Text
from sclip_lab.network.truth import PatchLabels
from sclip_lab.segmentation.encoded import encode
from sclip_lab.segmentation.readouts.cosine import unit

if TYPE_CHECKING:
    from sclip_lab.network.guidance import Guide


@torch.inference_mode()
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
        backbone: from `load_backbone`.
        images: (batch, 3, height, width). Floating point: already normalised. uint8: RGB, gets
            the backbone's channel statistics.
        attention: from `load_attention`.
        normalize: divide each embedding by its norm.
        position_embedding: rule for grids of another size; the backbone's otherwise.
        guidance: a second network, for variants that look at one.
        text: for variants that read texts: (texts, embed_dim) unit embeddings, or these with
            auxiliary words.
        labels: for variants that read ground truth: (batch, grid_h, grid_w) class ids of the
            patches, -1 where unknown.

    Returns:
        (batch, grid_h, grid_w, embed_dim) float32, on the guidance's grid where the variant
        takes that; pixels beyond the last whole patch have none.

    Raises:
        LabError: shape, layer out of range, unknown rule.
    """
    images = torch.as_tensor(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise LabError(f"images of shape {tuple(images.shape)}: (batch, 3, height, width) wanted")
    if images.dtype == torch.uint8:
        images = backbone.normalise(images)
    if text is not None:
        attention = attention.given(text if isinstance(text, Text) else Text.of(text))
    size = images.shape[-2], images.shape[-1]
    scene = Scene(alone(len(images), size, backbone.patch_size))
    if guidance is not None:
        look = partial(guidance.of_windows, backbone=backbone)
        scene = replace(scene, guidance=seen(images, look))
    if labels is not None:
        grid = (len(images), *backbone.grid(*size))
        if tuple(labels.shape) != grid or labels.is_floating_point():
            raise LabError(f"labels of shape {tuple(labels.shape)}: expected whole numbers, {grid}")
        scene = replace(scene, labels=PatchLabels.of(labels))
    [(_, encoded)] = encode(backbone, images, [attention], position_embedding, scene=scene)
    patches = encoded.patches.float()
    return unit(patches) if normalize else patches

"""Dense features and attention maps, with variants by name and images of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import as_image
from sclip_lab.network.backbone import Backbone
from sclip_lab.run.library import as_backbone, as_variant
from sclip_lab.segmentation import dense_features as functions
from sclip_lab.segmentation.dense_features import AttentionMaps


def dense_features(
    backbone: Backbone | str, images: Any, attention: Variant | str, *args: Any, **options: Any
) -> Tensor:
    """Call `sclip_lab.segmentation.dense_features.dense_features` with more kinds of input.

    Args:
        backbone: from `load_backbone`, or its name.
        images: as there; or one image: a file, a PIL image, or (height, width, 3) uint8 RGB; or a
            list of images of one size.
        attention: a variant, or the name of a file of conf/attention.
        *args, **options: as there.

    Returns:
        (batch, grid_h, grid_w, embed_dim) float32.

    Raises:
        LabError: as there, an image that cannot be read, or an unknown name.
    """
    network, variant = as_backbone(backbone), as_variant(attention)
    return functions.dense_features(network, _batch(images), variant, *args, **options)


def attention_maps(
    backbone: Backbone | str, image: Any, attention: Variant | str, *args: Any, **options: Any
) -> AttentionMaps:
    """Call `sclip_lab.segmentation.dense_features.attention_maps` with the kinds of input and
    attention of `dense_features`.

    Returns:
        ``weights`` (heads, queries, keys) float32, and ``grid`` (grid_h, grid_w).

    Raises:
        LabError: as there, an image that cannot be read, or an unknown name.
    """
    network, variant = as_backbone(backbone), as_variant(attention)
    return functions.attention_maps(network, _batch(image), variant, *args, **options)


def _batch(images: Any) -> Tensor:
    if isinstance(images, str | Path | Image.Image):
        images = as_image(images)
    if isinstance(images, list | tuple):
        batches = [_batch(each) for each in images]
        if len({(each.shape[1:], each.dtype) for each in batches}) != 1:
            raise LabError("a list of images must hold images of one size and type")
        return torch.cat(batches)
    try:
        images = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise LabError(
            f"images are a {type(images).__name__}; give files, PIL images, arrays or tensors"
        ) from None
    if images.ndim == 3 and images.shape[0] != 3 and images.shape[-1] == 3:
        images = images.permute(2, 0, 1)
    return images[None] if images.ndim == 3 else images

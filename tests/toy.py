"""The toy CLIP on which the official codes were run, its images, and its blocks one by one."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded, encode
from tests import make_clip


@cache
def weights() -> dict[str, Tensor]:
    return make_clip.to_torch(make_clip.make_state_dict(make_clip.SEEDS["public"]["weights"]))


def openai(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the three integers by which OpenAI's files are known."""
    sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    return weights | {name: torch.tensor(size) for name, size in sizes.items()}


@cache
def network(**arguments: Any) -> Backbone:
    """The toy CLIP; arguments as for `load_backbone`."""
    return load_backbone(state_dict=openai(weights()), device="cpu", **arguments)


@cache
def inputs() -> dict[str, Tensor]:
    """(1, 3, height, width) normalised images by name."""
    return make_clip.to_torch(make_clip.make_inputs("public"))


@cache
def text() -> Tensor:
    """(8, 64) unit text embeddings."""
    return torch.from_numpy(make_clip.make_text("public"))


def encoded(backbone: Backbone, images: Tensor, variant: Variant) -> Encoded:
    """Images behind the network, each as one window."""
    with torch.inference_mode():
        [(_, one)] = encode(backbone, images, [variant])
    return one


@torch.inference_mode()
def logits(readout: Readout, encoded: Encoded) -> Tensor:
    """(windows, grid_h, grid_w, queries); a readout that reads other photos is shown these windows
    as another photo, with masks of all classes in turn."""
    if readout.steps.summary is None:
        return readout.patch_logits(encoded)
    labels = torch.arange(encoded.patches[..., 0].numel()) % readout.num_classes
    labels = labels.view(encoded.patches.shape[:3])
    others = [readout.steps.summary(encoded, labels, readout.num_classes)]
    return readout.patch_logits(encoded, [(slice(0, len(encoded.images)), others)])


@torch.inference_mode()
def context(backbone: Backbone, images: Tensor) -> Context:
    """The last block of the network as trained, as a variant sees it."""
    tokens = backbone.embed(images)
    entered = []
    for block in backbone.blocks:
        entered.append(BlockInput(block, tokens))
        tokens = block.plain(tokens)
    return Context(entered[-1], tuple(entered[:-1]), backbone.grid(*images.shape[-2:]))

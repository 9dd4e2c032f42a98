"""The contract of a variant, as a function that its author can run.

>>> import sclip_lab as lab
>>> lab.testing.check_variant(lab.load_attention("csa"))

This package's own variants are tested with it too.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant, build
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import describe
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.guidance import Guide, load_guidance
from sclip_lab.network.loading import load_backbone
from sclip_lab.network.precision import Precision
from sclip_lab.network.scene import Guidance, Scene
from sclip_lab.network.text import Text
from sclip_lab.network.truth import PatchLabels
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.dense_features import dense_features

ARCHITECTURE = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64, "patch_size": 16, "layers": 4, "width": 64, "head_width": 16,
    },
    "text_cfg": {
        "context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1,
    },
}  # fmt: skip
# Options of the second network, for variants that read one; its patches have 16 pixels too.
GUIDE = {"depth": 2, "embed_dim": 32, "num_heads": 2}
# Image sizes in pixels: the network's own, others, one row, one column and a single patch.
SIZES = ((64, 64), (96, 128), (160, 48), (16, 112), (112, 16), (16, 16))
ROUNDING = 5e-5


@cache
def small_backbone(precision: Precision = "fp32") -> Backbone:
    """A random CLIP of 4 blocks with 4 heads, for images of 4 x 4 patches of 16 pixels."""
    backbone = load_backbone(architecture=ARCHITECTURE, seed=0, precision=precision, device="cpu")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in backbone.model.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return backbone


@cache
def small_guide() -> Guide:
    """A random ViT of 2 blocks as the second network, patches of 16 pixels."""
    return load_guidance("vit_tiny_patch16_224", device="cpu", options=GUIDE)


def check_variant(
    variant: Variant, backbone: Backbone | None = None, row_sum: float | None = None
) -> None:
    """Check that a variant does what the laboratory counts on.

    Features of every grid have the right shape, are float32 and finite; a photo's features do not
    depend on its batch; two photos differ; other variants in the same pass keep their tokens; the
    same configuration has the same key; `small_backbone` runs in half precision; patches do not
    attend to the class token where ``class_token`` is false.

    Args:
        variant: from `sclip_lab.variant`, `load_attention` or `build`.
        backbone: a network to check it on; None: `small_backbone`.
        row_sum: the sum of every row of its attention weights; None: rows may have any sum.

    Raises:
        AssertionError: the variant breaks one of these rules; the message says which, and where.
    """
    network, who = backbone or small_backbone(), f"attention '{variant.name}'"
    rebuilt = build(variant.config, variant.name)
    _require(rebuilt.key == variant.key, f"{who}: its own configuration gives another key")
    variant = variant.given(_text(network))
    for height, width in SIZES:
        grid = network.grid(height, width)
        images = _images(height, width)
        where = f"{who} on a grid of {grid[0]} x {grid[1]}"
        features = _computed(network, images, variant, where)
        _require(
            features.shape == (2, *grid, network.embed_dim),
            f"{where}: features have shape {tuple(features.shape)}, "
            f"not {(2, *grid, network.embed_dim)}",
        )
        _require(features.dtype == torch.float32, f"{where}: features are {features.dtype}")
        _require(bool(features.isfinite().all()), f"{where}: features are not finite")
        alone = torch.cat([_computed(network, image[None], variant, where) for image in images])
        off = float((features - alone).abs().max())
        _require(off < ROUNDING, f"{where}: a photo's features change by {off:.1g} with its batch")
        # On a grid of one patch all weights may be 0, which makes the features of photos equal.
        alike = grid != (1, 1) and torch.equal(features[0], features[1])
        _require(not alike, f"{where}: two photos have equal features")
        _check_weights(network, images, variant, row_sum, where)
    if backbone is None:
        half = _computed(small_backbone("bf16"), _images(*SIZES[1]), variant, f"{who} in bf16")
        _require(bool(half.isfinite().all()), f"{who} in bf16: features are not finite")
        _require(half.dtype == torch.float32, f"{who} in bf16: features are {half.dtype}")


def _check_weights(
    network: Backbone, images: Tensor, variant: Variant, row_sum: float | None, where: str
) -> None:
    """Check the last rewritten block's weights, and that the plain network's tokens stay."""
    grid = network.grid(*images.shape[-2:])
    tokens, vanilla = network.embed(images), load_attention("vanilla")
    with torch.inference_mode():
        [(_, alone, _)] = tree.leaves(network.blocks, tokens, grid, [vanilla])
        guidance = Guidance(lambda: small_guide().of_windows(images, network))
        labels = PatchLabels.of(patch_labels(network, images))
        scene = Scene(
            guidance=guidance if "guidance" in variant.uses else None,
            labels=labels if "labels" in variant.uses else None,
        )
        both = tree.leaves(network.blocks, tokens, grid, [variant, vanilla], scene=scene)
        states = {index: state for index, state, _ in both}
    _require(
        torch.equal(alone.tokens, states[1].tokens),
        f"{where}: it writes into tokens that others use, or changes the network",
    )
    weights = states[0].attention
    if weights is None:
        return
    count = weights.shape[-1]
    # Weights may be among all tokens, or among the patches alone.
    possible = {states[0].tokens.shape[1], tokens.shape[1] - network.blocks[0].prefix}
    _require(
        count in possible and weights.shape[-2] == count,
        f"{where}: attention weights of shape {tuple(weights.shape)} for {max(possible)} tokens",
    )
    _require(bool(weights.isfinite().all()), f"{where}: attention weights are not finite")
    if row_sum is not None:
        off = float((weights.float().sum(-1) - row_sum).abs().max())
        _require(
            off < 1e-3, f"{where}: rows of the weights sum to {row_sum} with errors up to {off:.1g}"
        )
    whole = count == states[0].tokens.shape[1]
    if network.has_class_token and whole and not variant.config["class_token"]:
        largest = float(weights[..., 1:, 0].abs().max())
        _require(largest == 0, f"{where}: patches attend to the class token ({largest:.1g})")


def _text(network: Backbone) -> Text:
    """Five texts and two auxiliary words."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.nn.functional.normalize(
        torch.randn(7, network.embed_dim, generator=generator), dim=-1
    )
    return Text(rows[:5], rows[5:])


def _images(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(2, 3, height, width, generator=generator)


def patch_labels(network: Backbone, images: Tensor) -> Tensor:
    """(batch, grid_h, grid_w) int64: ground truth of two classes and an unknown corner, the same
    for each image, for variants that read it."""
    height, width = network.grid(*images.shape[-2:])
    labels = (torch.arange(height)[:, None] + torch.arange(width)) * 2 // (height + width)
    if height * width > 4:
        labels[0, 0] = -1
    return labels.expand(len(images), height, width)


def _computed(network: Backbone, images: Tensor, variant: Variant, where: str) -> Tensor:
    try:
        guide = small_guide() if "guidance" in variant.uses else None
        labels = patch_labels(network, images) if "labels" in variant.uses else None
        return dense_features(network, images, variant, guidance=guide, labels=labels)
    except Exception as error:
        raise AssertionError(f"{where}: {describe(error)}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)

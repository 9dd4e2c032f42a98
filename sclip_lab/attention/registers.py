"""Test-time registers: extra tokens that take over what makes patches outliers.

Jiang et al., "Vision transformers don't need trained registers", NeurIPS 2025, arXiv 2506.08010. A
few MLP neurons of early blocks write the large norms of outlier patches. Tokens of zeros are added
before the first norm. Behind the activation, each of those neurons gets its largest value at the
added tokens and nothing at the patches. The added tokens stay keys and queries to the end and are
never read out.

Two parts of any variant: ``entry`` (`zeros`) and ``hidden`` (`moved`). `find` looks for the neurons
of a network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import entry_function, hidden_function
from sclip_lab.core.values import within
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.block import Block
from sclip_lab.network.context import Grid
from sclip_lab.network.depth import Layer, resolve

Patches = Literal["zero", "mean", "only_outliers", "keep"]
Neurons = Sequence[Sequence[int]]


@entry_function
def zeros(tokens: Tensor, count: int = 1) -> Tensor:
    """(batch, count, width) zeros to follow ``tokens``, (batch, tokens, width); count >= 1."""
    within("count", count, 1)
    return tokens.new_zeros(len(tokens), count, tokens.shape[-1])


@hidden_function
def moved(
    block: Block,
    hidden: Tensor,
    grid: Grid,
    neurons: Neurons = (),
    neurons_file: str | None = None,
    scale: float | Sequence[float] = 1.0,
    patches: Patches = "zero",
) -> Tensor:
    """Move the chosen neurons' activations from the patches to the registers.

    Each neuron gets scale * t at the registers, where t is the entry of largest magnitude, with its
    sign, over all tokens and all chosen neurons of the block. The official code edits only the
    first image of a batch; here every image has a t of its own.

    Args:
        hidden: (batch, tokens, hidden) behind the activation, same shape out; registers follow the
            patches.
        grid: (grid_h, grid_w) of the patches.
        neurons: (block, neuron) pairs, both from 0.
        neurons_file: a JSON file with such pairs instead, as `find` returns them.
        scale: a number, or one for each register; t is computed anew after each register.
        patches: the neurons' values at patches: ``zero``, their ``mean`` over patches, the mean at
            ``only_outliers`` (entries above mean plus standard deviation), or ``keep`` for no
            change. The class token keeps its own.
    """
    chosen = _neurons_of(block.index, neurons, neurons_file)
    if not chosen:
        return hidden
    if max(chosen) >= hidden.shape[-1]:
        raise LabError(
            f"neurons: no neuron {max(chosen)} in block {block.index}, which has {hidden.shape[-1]}"
        )
    first, end = block.prefix, block.prefix + math.prod(grid)
    count = hidden.shape[1] - end
    scales = [scale] * count if isinstance(scale, int | float) else list(scale)
    if len(scales) != count:
        raise LabError(f"scale {scale}: one number, or one for each of {count} registers")
    activations = hidden[..., chosen]
    for register, factor in enumerate(scales):
        flat = activations.flatten(1)
        largest = flat.gather(1, flat.abs().argmax(1, keepdim=True))
        activations[:, end + register] = factor * largest
    activations[:, first:end] = _of_patches(activations[:, first:end], patches)
    result = hidden.clone()
    result[..., chosen] = activations
    return result


def _of_patches(activations: Tensor, patches: Patches) -> Tensor:
    if patches == "zero":
        return torch.zeros_like(activations)
    mean = activations.mean(1, keepdim=True)
    if patches == "mean":
        return mean.expand_as(activations)
    if patches == "keep":
        return activations
    return torch.where(activations > mean + activations.std(1, keepdim=True), mean, activations)


def _neurons_of(index: int, neurons: Neurons, neurons_file: str | None) -> list[int]:
    """The chosen neurons of block ``index``."""
    if neurons_file is not None:
        try:
            neurons = json.loads(Path(neurons_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LabError(f"neurons_file {neurons_file}: {error}") from None
    pairs = [tuple(pair) for pair in neurons] if isinstance(neurons, list | tuple) else [()]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(n, int) and n >= 0 for n in pair):
            raise LabError(f"neurons {neurons}: expected pairs of block and neuron, both from 0")
    return [neuron for layer, neuron in pairs if layer == index]


@torch.inference_mode()
def find(
    backbone: Backbone,
    images: Iterable[Tensor],
    threshold: float = 30.0,
    detect_layer: Layer = -1,
    highest_layer: Layer | None = None,
    top: int = 10,
    sparse: bool = False,
) -> tuple[list[tuple[int, int]], list[float]]:
    """Find the (block, neuron) pairs that are most active where tokens have large norms.

    score(l, n) = mean over outlier tokens of the neuron's |activation|, averaged over the images
    that have such tokens. Each image is (1, 3, height, width), normalised. Returns pairs in falling
    order of their scores, and the scores.

    Args:
        threshold: tokens with a larger norm behind ``detect_layer`` are outliers, the class token
            included; 30 for OpenAI's ViT-B/16.
        highest_layer: leave out neurons of later blocks; the paper's ViT-B/16 stops at 5.
        top: how many pairs are returned.
        sparse: a neuron scores 0 on an image if its activation is below 0.5 at half of all tokens
            or more: image by image, before the mean, as in the official code.

    Raises:
        LabError: no image has an outlier.
    """
    detect = resolve(detect_layer, backbone.depth)
    total, count = torch.zeros(()), 0
    for image in images:
        activations, outliers = _activations(backbone, image, detect, threshold)
        if not bool(outliers.any()):
            continue
        score = activations[:, outliers].abs().mean(1)
        if sparse:
            quiet = (activations < 0.5).float().mean(1) >= 0.5
            score = torch.where(quiet, score, 0.0)
        total, count = total + score, count + 1
    if not count:
        raise LabError(f"no image has a token with a norm above {threshold}")
    mean = total / count
    if highest_layer is not None:
        mean = mean[: resolve(highest_layer, backbone.depth) + 1]
    scores, index = mean.flatten().sort(descending=True, stable=True)
    pairs = [divmod(i, mean.shape[1]) for i in index[:top].tolist()]
    return pairs, scores[:top].tolist()


def _activations(
    backbone: Backbone, image: Tensor, detect: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """(blocks, tokens, hidden) MLP activations, and (tokens,) whether each token is an outlier."""
    activations: list[Tensor] = []

    def keep(block: Block, hidden: Tensor) -> Tensor:
        activations.append(hidden[0].float())
        return hidden

    tokens = backbone.embed(image)
    outliers = torch.zeros(tokens.shape[1], dtype=torch.bool)
    for block in backbone.blocks_on(backbone.grid(*image.shape[-2:])):
        tokens = block.with_hidden(keep, "kept").plain(tokens)
        if block.index == detect:
            outliers = tokens[0].float().norm(dim=-1) > threshold
    return torch.stack(activations), outliers

"""A plain evaluation as the field runs it: the yardstick of `benchmarks.run`.

Written from the protocol's description (SCLIP, arXiv 2312.01597, section 4.1, and its released
settings): one variant at a time, one window per forward pass, every window's logits upsampled and
accumulated, the sum divided by the number of windows over each pixel, resized to the photo,
softmax over all queries, and a dense [classes, queries, H, W] tensor for synonyms. Nothing here
comes from sclip_lab; the two share the weights of an open_clip model and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """What enters the last attention, per head: (1, heads, tokens, head_dim) each."""

    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    random: Tensor


def softmax_of(a: Tensor, b: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(a b^T / (temperature * sqrt(head_dim)))."""
    return torch.softmax(a @ b.transpose(-2, -1) / (temperature * a.shape[-1] ** 0.5), dim=-1)


def local(h: Heads) -> Tensor:
    """Vanilla attention of each patch within its 3 x 3 neighbourhood on a square grid."""
    scores = h.query @ h.key.transpose(-2, -1) / h.query.shape[-1] ** 0.5
    tokens = scores.shape[-1]
    side = round((tokens - 1) ** 0.5)
    y, x = torch.arange(tokens - 1) // side, torch.arange(tokens - 1) % side
    far = ((y[:, None] - y).abs() > 1) | ((x[:, None] - x).abs() > 1)
    closed = torch.zeros(tokens, tokens, dtype=torch.bool)
    closed[1:, 1:], closed[1:, 0] = far, True
    return torch.softmax(scores.masked_fill(closed, -torch.inf), dim=-1)


def identity(h: Heads) -> Tensor:
    tokens = h.query.shape[-2]
    return torch.eye(tokens, dtype=h.query.dtype).expand(*h.query.shape[:2], tokens, tokens)


# Attention weights of the last block by the names of conf/attention.
ATTENTION: dict[str, Callable[[Heads], Tensor]] = {
    "vanilla": lambda h: softmax_of(h.query, h.key),
    "csa": lambda h: softmax_of(h.query, h.query) + softmax_of(h.key, h.key),
    "csa_mean": lambda h: (softmax_of(h.query, h.query) + softmax_of(h.key, h.key)) / 2,
    "csa_q": lambda h: softmax_of(h.query, h.query),
    "csa_k": lambda h: softmax_of(h.key, h.key),
    "csa_v": lambda h: softmax_of(h.value, h.value),
    "csa_identity": lambda h: softmax_of(h.normed, h.normed),
    "csa_random": lambda h: softmax_of(h.random, h.random),
    "sharpened": lambda h: softmax_of(h.query, h.key, 0.5),
    "local": local,
    "maskclip": identity,
    "clearclip": lambda h: softmax_of(h.query, h.query),
}
NO_RESIDUAL_NO_MLP = {"clearclip"}


def split(x: Tensor, heads: int) -> Tensor:
    """(1, tokens, width) -> (1, heads, tokens, head_dim)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def random_projection(width: int, block: int) -> Tensor:
    """The matrix of ``csa_random``, part of the weights: N(0, 1/width), seeded by the block."""
    generator = torch.Generator().manual_seed(block * 1009)
    return torch.randn(width, width, generator=generator) * width**-0.5


def last_block(block: Any, tokens: Tensor, variant: str, projection: Tensor) -> Tensor:
    """The last block with another attention: (1, tokens, width) in and out."""
    attn = block.attn
    normed = block.ln_1(tokens)
    q, k, v = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    random = normed @ projection.to(normed) if variant == "csa_random" else normed
    h = Heads(*(split(part, attn.num_heads) for part in (normed, q, k, v, random)))
    attended = (ATTENTION[variant](h) @ h.value).transpose(1, 2).flatten(2)
    out = attn.out_proj(attended)
    if variant in NO_RESIDUAL_NO_MLP:
        return out
    out = tokens + out
    return out + block.mlp(block.ln_2(out))


def patch_embeddings(model: Any, window: Tensor, variant: str, projection: Tensor) -> Tensor:
    """(1, 3, crop, crop) at the size the model was trained at -> (patches, embed_dim), unit."""
    visual = model.visual
    tokens = visual.conv1(window.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), tokens], dim=1)
    tokens = visual.ln_pre(tokens + visual.positional_embedding)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    tokens = last_block(last, tokens, variant, projection)
    patches = (visual.ln_post(tokens) @ visual.proj)[0, 1:].float()
    return patches / patches.norm(dim=-1, keepdim=True)


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """Every ``stride`` pixels; the last window is shifted inward."""
    steps = max(side - crop + stride - 1, 0) // stride + 1
    return [min(i * stride, side - crop) for i in range(steps)]


@torch.inference_mode()
def slide(
    model: Any,
    photo: Tensor,
    target: tuple[int, int],
    text: Tensor,
    variant: str,
    crop: int = 224,
    stride: int = 112,
) -> Tensor:
    """Logits at the photo's size.

    Args:
        model: an open_clip CLIP with a ViT.
        photo: (3, height, width) normalised, sides at least ``crop``.
        target: (height, width) of the original photo.
        text: (queries, embed_dim), unit.
        variant: a key of ``ATTENTION``.
        crop, stride: of the sliding window; ``crop`` is the model's own image size.

    Returns:
        (queries, *target) cosine similarities.
    """
    blocks = model.visual.transformer.resblocks
    projection = random_projection(blocks[-1].attn.embed_dim, len(blocks) - 1)
    height, width = photo.shape[1:]
    total = photo.new_zeros(1, len(text), height, width)
    count = photo.new_zeros(1, 1, height, width)
    for y in window_starts(height, crop, stride):
        for x in window_starts(width, crop, stride):
            window = photo[None, :, y : y + crop, x : x + crop]
            patches = patch_embeddings(model, window, variant, projection)
            side = round(len(patches) ** 0.5)
            logits = (patches @ text.T).T.reshape(1, len(text), side, side)
            logits = F.interpolate(logits, size=(crop, crop), mode="bilinear")
            total[:, :, y : y + crop, x : x + crop] += logits
            count[:, :, y : y + crop, x : x + crop] += 1
    return F.interpolate(total / count, size=target, mode="bilinear")[0]


@torch.inference_mode()
def decide(
    logits: Tensor,
    query_classes: Tensor,
    scale: float = 40.0,
    prob_threshold: float = 0.0,
    area_threshold: float = 0.0,
) -> Tensor:
    """(queries, height, width) logits -> (height, width) class ids, synonyms reduced densely."""
    probability = torch.softmax(logits * scale, dim=0)
    classes = int(query_classes.max()) + 1
    if classes != len(query_classes):
        member = F.one_hot(query_classes, classes).T.view(classes, len(query_classes), 1, 1)
        probability = (probability[None] * member).amax(dim=1)
    prediction = probability.argmax(dim=0)
    if area_threshold:
        area = torch.stack([(prediction == c).sum() for c in range(1, classes)]).float()
        dropped = area / area.sum() <= area_threshold
        probability[1:] *= (~dropped)[:, None, None]
        prediction = probability.argmax(dim=0)
    prediction[probability.amax(dim=0) < prob_threshold] = 0
    return prediction

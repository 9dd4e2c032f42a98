"""Feature surgery: official similarities, the paper's sum over channels, batches."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.surgery import (
    surgery_logits,
)
from tests import toy


def encoded(image: Tensor) -> Encoded:
    return toy.encoded(toy.network(position_embedding="bilinear"), image, load_attention("surgery"))


def embeddings(image: Tensor) -> Tensor:
    """(batch, tokens, 64) unit embeddings, the class embedding first."""
    one = encoded(image)
    tokens = torch.cat([one.class_embedding[:, None], one.patches.flatten(1, 2)], dim=1)
    return F.normalize(tokens, dim=-1)


def test_equals_the_sum_over_channels() -> None:
    f = embeddings(torch.cat([toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]]))[:, :9].double()
    text = toy.text().double()
    ours = surgery_logits(f, text)
    for image, row in zip(f, ours, strict=True):
        w = np.exp(2 * (image[0] @ text.T).numpy())
        products = image[:, None].numpy() * text[None].numpy() * (w / w.mean())[None, :, None]
        expected = (products - products.mean(1, keepdims=True)).sum(-1)
        np.testing.assert_allclose(row, expected, atol=1e-12)
    torch.testing.assert_close(ours.sum(-1), torch.zeros_like(ours[..., 0]))

"""Cosines of patch and text embeddings: the readout of every method that names no other."""

from __future__ import annotations

from torch import Tensor

from sclip_lab.core.functions import readout_function
from sclip_lab.core.shapes import Logits, TextEmbeddings
from sclip_lab.segmentation.encoded import Encoded


@readout_function
def cosine(encoded: Encoded, text: TextEmbeddings) -> Logits:
    """(windows, grid_h, grid_w, queries) float32 in -1 .. 1."""
    return unit(encoded.patches.float()) @ text.T


def unit(x: Tensor) -> Tensor:
    """Rows divided by their norm, without an epsilon, as the official codes do."""
    return x / x.norm(dim=-1, keepdim=True)

"""Declared shapes are checked at every call in these tests."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from sclip_lab.network.block import Block
from sclip_lab.segmentation.decoder import winner


def test_a_tensor_of_another_rank_is_refused(backbone: object) -> None:
    block: Block = backbone.blocks[0]  # type: ignore[attr-defined]
    with pytest.raises(jaxtyping.TypeCheckError, match="tokens"):
        block.norm(torch.zeros(3, block.width))


def test_axes_of_one_name_have_one_size(backbone: object) -> None:
    block: Block = backbone.blocks[0]  # type: ignore[attr-defined]
    weights = torch.zeros(1, block.num_heads, 5, 6)
    with pytest.raises(jaxtyping.TypeCheckError):
        block.output(weights, torch.zeros(1, block.num_heads, 6, block.head_dim))


def test_integers_are_no_logits() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        winner(torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(24))

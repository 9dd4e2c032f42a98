"""CLIP Surgery: official attention and trained stream; other grids and batches by a loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sclip_lab.config.registry import load_attention
from sclip_lab.segmentation.dense_features import dense_features
from tests import toy


def test_non_square_equals_a_loop_over_blocks() -> None:
    backbone = toy.network(position_embedding="bilinear")
    x = torch.cat([toy.inputs()["rect224x336"], toy.inputs()["rect224x336"].flip(-1)])
    with torch.inference_mode():
        t = backbone.embed(x)
        y = t
        for i, block in enumerate(backbone.blocks):
            if i == 6:
                y = t
            if i >= 6:
                v = block.project(block.norm(t), "value")
                y = y + block.merge(F.scaled_dot_product_attention(v, v, v))
            t = block.plain(t)
        visual = backbone.model.visual
        expected = (visual.ln_post(y) @ visual.proj)[:, 1:]
    both = dense_features(backbone, x, load_attention("surgery"))
    torch.testing.assert_close(both.flatten(1, 2), expected, atol=1e-5, rtol=1e-5)
    singles = torch.cat(
        [dense_features(backbone, one[None], load_attention("surgery")) for one in x]
    )
    torch.testing.assert_close(both, singles, atol=1e-5, rtol=1e-5)

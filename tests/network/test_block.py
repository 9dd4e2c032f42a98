"""Block against open_clip's own forward, and its explicit path against the fused one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from sclip_lab.network.backbone import Backbone
from sclip_lab.network.block import Block
from sclip_lab.network.context import BlockInput

PRECISIONS = [(torch.float32, 2e-6), (torch.float64, 1e-13)]


def doubled(backbone: Backbone, dtype: torch.dtype) -> list[Block]:
    modules = copy.deepcopy(backbone.model.visual.transformer.resblocks).to(dtype)
    return [Block(module, i, len(modules)) for i, module in enumerate(modules)]


def tokens(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS, ids=str)
def test_plain_equals_open_clip(backbone: Backbone, dtype: torch.dtype, atol: float) -> None:
    for block in doubled(backbone, dtype):
        x = tokens(dtype)
        torch.testing.assert_close(block.plain(x), block.module(x), atol=atol, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS, ids=str)
def test_explicit_path_equals_fused(backbone: Backbone, dtype: torch.dtype, atol: float) -> None:
    for block in doubled(backbone, dtype):
        entered = BlockInput(block, tokens(dtype))
        after = entered.tokens + block.output(entered.attention(), entered.projected("value"))
        explicit = after + block.mlp(after)
        torch.testing.assert_close(explicit, block.plain(entered.tokens), atol=atol, rtol=0)


def test_attention_equals_torch_multihead(backbone: Backbone) -> None:
    block = backbone.blocks[1]
    entered = BlockInput(block, tokens(torch.float32))
    x = entered.normed
    _, expected = block.module.attn(x, x, x, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(entered.attention(), expected, atol=1e-6, rtol=0)


def test_projections_of_heads(backbone: Backbone) -> None:
    block = backbone.blocks[0]
    x = block.norm(tokens(torch.float32))
    weight, bias = block.module.attn.in_proj_weight, block.module.attn.in_proj_bias
    packed = x @ weight.T + bias
    for i, name in enumerate(("query", "key", "value")):
        part = packed[..., i * 64 : (i + 1) * 64].view(2, 13, 4, 16).transpose(1, 2)
        torch.testing.assert_close(block.project(x, name), part, atol=1e-6, rtol=0)


def test_layer_scale_is_applied(backbone: Backbone) -> None:
    module = copy.deepcopy(backbone.model.visual.transformer.resblocks[0])
    plain = Block(module, 0, 1)
    module.ls_1 = torch.nn.Linear(64, 64, bias=False)
    scaled = Block(module, 0, 1)
    torch.nn.init.zeros_(module.ls_1.weight)
    x = tokens(torch.float32)
    torch.testing.assert_close(scaled.plain(x), x + scaled.mlp(x))
    assert not torch.equal(scaled.plain(x), plain.plain(x))
    torch.testing.assert_close(scaled.plain(x), module(x))


def test_derived_values_are_computed_once(backbone: Backbone) -> None:
    entered = BlockInput(backbone.blocks[0], tokens(torch.float32))
    assert entered.attention() is entered.attention("query", "key")
    assert entered.projected("value") is entered.projected("value")

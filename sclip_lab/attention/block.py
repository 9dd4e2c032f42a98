"""One transformer block, read by the names of its weights.

Borrowing the weights instead of calling the block's own forward is the seam that has stayed the
same between open_clip releases, and it is the only thing a rewritten block needs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("query", "key", "value")


class Block:
    """A pre-norm residual attention block: ``x + O(A)``, then ``x + M(x)``.

    Args:
        module: an open_clip ``ResidualAttentionBlock`` (``ln_1``, ``attn``, ``ln_2``, ``mlp``,
            optional layer scales ``ls_1`` and ``ls_2``).
        index: 0-based position.
        depth: number of blocks of the network.
    """

    def __init__(self, module: Any, index: int, depth: int) -> None:
        self.module = module
        self.index = index
        self.depth = depth
        attention = module.attn
        self.num_heads: int = attention.num_heads
        self.width: int = attention.embed_dim
        self.head_dim = self.width // self.num_heads
        self.scale = self.head_dim**-0.5
        self.layer_scale_1 = getattr(module, "ls_1", nn.Identity())
        self.layer_scale_2 = getattr(module, "ls_2", nn.Identity())

    def norm(self, tokens: Tensor) -> Tensor:
        """LN1, the input of the three projections: (batch, tokens, width), same shape out."""
        return self.module.ln_1(tokens)

    def heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, head_dim)."""
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)

    def project(self, normed: Tensor, name: str) -> Tensor:
        """One of the block's own projections of LN1's output.

        Args:
            normed: (batch, tokens, width).
            name: ``query``, ``key`` or ``value``.

        Returns:
            (batch, heads, tokens, head_dim), not scaled.
        """
        which = PROJECTIONS.index(name)
        rows = slice(which * self.width, (which + 1) * self.width)
        attention = self.module.attn
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
        return self.heads(F.linear(normed, attention.in_proj_weight[rows], bias))

    def output(self, weights: Tensor, value: Tensor) -> Tensor:
        """O(A): heads concatenated, output projection, layer scale.

        Args:
            weights: (batch, heads, tokens, tokens) attention weights; rows may sum to anything.
            value: (batch, heads, tokens, head_dim).

        Returns:
            (batch, tokens, width).
        """
        return self.merge(weights @ value)

    def merge(self, per_head: Tensor) -> Tensor:
        """(batch, heads, tokens, head_dim) -> (batch, tokens, width), by the output projection."""
        joined = per_head.transpose(1, 2).flatten(2)
        return self.layer_scale_1(self.module.attn.out_proj(joined))

    def mlp(self, tokens: Tensor) -> Tensor:
        """M(x) = MLP(LN2(x)), layer scale included: (batch, tokens, width), same shape out."""
        normed = self.module.ln_2(tokens)
        mlp = self.module.mlp
        if type(mlp.gelu).__name__ != "QuickGELU" or torch.is_grad_enabled():
            return self.layer_scale_2(mlp(normed))
        # The same operations and bits as the module's own forward, without its three temporaries
        # of the hidden size: a window at a time stays in the cache.
        hidden = mlp.c_fc(normed)
        for window in hidden.split(1 if hidden.device.type == "cpu" else len(hidden)):
            window.mul_(torch.mul(window, 1.702).sigmoid_())
        return self.layer_scale_2(mlp.c_proj(hidden))

    def plain(self, tokens: Tensor) -> Tensor:
        """The block as trained, with a fused attention: (batch, tokens, width), same shape out."""
        normed = self.norm(tokens)
        attention = self.module.attn
        packed = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (self.heads(part) for part in packed.chunk(3, dim=-1))
        tokens = tokens + self.merge(F.scaled_dot_product_attention(query, key, value))
        return tokens + self.mlp(tokens)


def softmax_scores(scores: Tensor, bias: Tensor | None = None) -> Tensor:
    """Row softmax of (batch, heads, tokens, tokens) scores with an optional additive bias."""
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1)

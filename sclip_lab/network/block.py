"""One transformer block, read by the names of its weights.

Borrowing the weights instead of calling the block's own forward is the seam that has stayed the
same between open_clip releases, and it is the only thing a rewritten block needs.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.core.shapes import PerHead, Tokens, Weights
from sclip_lab.network.linear import QUICK_GELU, Linear, is_quick_gelu

PROJECTIONS = ("query", "key", "value")


class Block:
    """A pre-norm residual attention block: ``x + O(A)``, then ``x + M(x)``.

    Args:
        module: an open_clip ``ResidualAttentionBlock`` (``ln_1``, ``attn``, ``ln_2``, ``mlp``,
            optional layer scales ``ls_1`` and ``ls_2``).
        index: 0-based position.
        depth: number of blocks of the network.
        prefix: tokens before the patches: 1 with a class token, 0 without.
        network: its name, for messages.
    """

    def __init__(
        self, module: Any, index: int, depth: int, prefix: int = 1, network: str = "this network"
    ) -> None:
        self.module = module
        self.index = index
        self.depth = depth
        self.prefix = prefix
        self.network = network
        self.norm_1, self.norm_2 = self._norms()
        self.num_heads: int = module.attn.num_heads
        self.width: int = self.packed[0].shape[1]
        self.head_dim = self.width // self.num_heads
        self.scale = self.head_dim**-0.5
        self.layer_scale_1, self.layer_scale_2 = self._layer_scales()
        self._linear: defaultdict[str, Linear] = defaultdict(Linear)
        # The network that it belongs to, put in by it: its head, and its norm before the blocks.
        self.tower: Any = None
        self._hidden: Callable[[Block, Tensor], Tensor] | None = None
        self.hidden_key: str | None = None

    def with_hidden(self, edit: Callable[[Block, Tensor], Tensor], key: str | None) -> Block:
        """The same block with an edit of what its MLP has behind the activation.

        Args:
            edit: (block, (batch, tokens, hidden)) -> the same shape.
            key: equal keys compute the same thing.
        """
        edited = copy.copy(self)
        edited._hidden, edited.hidden_key = edit, key
        return edited

    @property
    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Weight (3 * width, width) and bias (3 * width,) of query, key and value."""
        return self.module.attn.in_proj_weight, self.module.attn.in_proj_bias

    @property
    def out_projection(self) -> nn.Linear:
        return self.module.attn.out_proj

    def _norms(self) -> tuple[nn.Module, nn.Module]:
        return self.module.ln_1, self.module.ln_2

    def _layer_scales(self) -> tuple[nn.Module, nn.Module]:
        none = nn.Identity()
        return getattr(self.module, "ls_1", none), getattr(self.module, "ls_2", none)

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products; norms and the token stream may be in a higher precision."""
        return self.packed[0].dtype

    def need_class_token(self, who: str, instead: str) -> None:
        """Refuse a network without class token.

        Args:
            who: the method or parameter that reads it.
            instead: what goes without.

        Raises:
            LabError: naming all three.
        """
        if not self.prefix:
            raise LabError(f"{who} needs a class token; {self.network} has none; {instead}")

    def among_tokens(self, matrix: Tensor) -> Tensor:
        """(..., 1 + patches, 1 + patches), the class token first -> (..., tokens, tokens)."""
        skip = 1 - self.prefix
        return matrix[..., skip:, skip:]

    def norm(self, tokens: Tokens) -> Tokens:
        """LN1, the input of the three projections: (batch, tokens, width), same shape out."""
        return self.norm_1(tokens).to(self.dtype)

    def heads(self, x: Tokens) -> PerHead:
        """(batch, tokens, width) -> (batch, heads, tokens, head_dim)."""
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)

    def project(self, normed: Tokens, name: str) -> PerHead:
        """One of the block's own projections of LN1's output.

        Args:
            normed: (batch, tokens, width).
            name: ``query``, ``key`` or ``value``.

        Returns:
            (batch, heads, tokens, head_dim), not scaled.
        """
        which = PROJECTIONS.index(name)
        rows = slice(which * self.width, (which + 1) * self.width)
        weight, bias = self.packed
        bias = None if bias is None else bias[rows]
        return self.heads(self._linear[name](normed, weight[rows], bias))

    def output(self, weights: Weights, value: PerHead) -> Tokens:
        """O(A): heads concatenated, output projection, layer scale.

        Args:
            weights: (batch, heads, tokens, tokens) attention weights; rows may sum to anything.
            value: (batch, heads, tokens, head_dim).

        Returns:
            (batch, tokens, width).
        """
        return self.merge(weights.to(value.dtype) @ value)

    def merge(self, per_head: PerHead) -> Tokens:
        """(batch, heads, tokens, head_dim) -> (batch, tokens, width), by the output projection."""
        joined, out = per_head.transpose(1, 2).flatten(2), self.out_projection
        return self.layer_scale_1(self._linear["output"](joined, out.weight, out.bias))

    def mlp(self, tokens: Tokens) -> Tokens:
        """M(x) = MLP(LN2(x)), layer scale included: (batch, tokens, width), same shape out."""
        return self.layer_scale_2(self._mlp(self.norm_2(tokens).to(self.dtype)))

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.module.mlp
        return self._two_layers(normed, mlp.c_fc, mlp.gelu, mlp.c_proj)

    def _two_layers(
        self, x: Tensor, first: nn.Linear, activation: nn.Module, second: nn.Linear
    ) -> Tensor:
        if is_quick_gelu(activation) and not torch.is_grad_enabled():
            hidden = self._linear["first"](x, first.weight, first.bias)
            # The same operations and bits as the module's own forward, without its three
            # temporaries of the hidden size: a window at a time stays in the cache.
            for window in hidden.split(1 if hidden.device.type == "cpu" else len(hidden)):
                window.mul_(torch.mul(window, QUICK_GELU).sigmoid_())
        else:
            hidden = self._linear["first"](x, first.weight, first.bias, activation)
        if self._hidden is not None:
            hidden = self._hidden(self, hidden)
        return self._linear["second"](hidden, second.weight, second.bias)

    def plain(self, tokens: Tokens) -> Tokens:
        """The block as trained, with a fused attention: (batch, tokens, width), same shape out."""
        normed = self.norm(tokens)
        query, key, value = (self.project(normed, name) for name in PROJECTIONS)
        tokens = tokens + self.merge(F.scaled_dot_product_attention(query, key, value))
        return tokens + self.mlp(tokens)


class TimmBlock(Block):
    """The same from a timm ``Block`` (``norm1``, ``attn.qkv``, ``attn.proj``, ``ls1``, ``norm2``,
    ``mlp``, ``ls2``).

    Raises:
        LabError: a block that does something else with these parts, or has others.
    """

    def __init__(
        self, module: Any, index: int, depth: int, prefix: int = 0, network: str = "this network"
    ) -> None:
        _check_timm(module, network)
        super().__init__(module, index, depth, prefix, network)

    @property
    def packed(self) -> tuple[Tensor, Tensor | None]:
        return self.module.attn.qkv.weight, self.module.attn.qkv.bias

    @property
    def out_projection(self) -> nn.Linear:
        return self.module.attn.proj

    def _norms(self) -> tuple[nn.Module, nn.Module]:
        return self.module.norm1, self.module.norm2

    def _layer_scales(self) -> tuple[nn.Module, nn.Module]:
        return self.module.ls1, self.module.ls2

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.module.mlp
        if not isinstance(getattr(mlp, "norm", None), nn.Identity):
            return mlp(normed)
        return self._two_layers(normed, mlp.fc1, mlp.act, mlp.fc2)


def _check_timm(module: Any, network: str) -> None:
    wanted = ("norm1", "attn", "ls1", "norm2", "mlp", "ls2")
    lacks = [name for name in wanted if not hasattr(module, name)]
    if lacks:
        raise LabError(f"{network}: its {type(module).__name__} has no {', '.join(lacks)}")
    attention = module.attn
    if type(attention).__name__ != "Attention":
        raise LabError(
            f"{network}: {type(attention).__name__} attention; "
            "one packed query-key-value projection is needed"
        )
    for name in ("q_norm", "k_norm", "norm", "gate"):
        if not isinstance(getattr(attention, name, None), nn.Identity | None):
            raise LabError(
                f"{network}: its attention has a {name}; values, queries and keys must be plain "
                "projections"
            )
    if attention.qkv.out_features != 3 * attention.qkv.in_features:
        raise LabError(f"{network}: its heads together are not as wide as its tokens")


def softmax_scores(scores: Tensor, bias: Tensor | None = None) -> Tensor:
    """Row softmax of (batch, heads, tokens, tokens) scores with an optional additive bias."""
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1)

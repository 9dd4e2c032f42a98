"""One transformer block, read by the names of its weights.

Borrowing the weights instead of calling the block's own forward works with many releases of
open_clip and timm, and weights are all that a rewritten block needs. This file has the interface
and open_clip's own block; timm's are in `sclip_lab.network.timm_block`.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.core.shapes import PerHead, Tokens, Weights
from sclip_lab.network.linear import QUICK_GELU, Linear, is_quick_gelu

PROJECTIONS = ("query", "key", "value")
# Query and key as they are before a rotary embedding turns them. In networks without one these are
# query and key. Rotation makes the product of two patches depend on their distance; before it,
# only their content counts.
BEFORE_ROTATION = ("query_before_rotation", "key_before_rotation")
Weight = tuple[Tensor, Tensor | None]
Map = Callable[[Tensor], Tensor]  # of tokens


class Block:
    """A pre-norm residual attention block: ``x + O(A)``, then ``x + M(x)``.

    Attributes:
        module: an open_clip ``ResidualAttentionBlock`` (``ln_1``, ``attn``, ``ln_2``, ``mlp``,
            optional layer scales ``ls_1`` and ``ls_2``).
        index: 0-based position.
        depth: number of blocks of the network.
        prefix: number of tokens before the patches: the class token, if any, and registers.
        has_class_token: whether token 0 is a class token.
        network: its name, for messages.
        num_heads, head_dim, width: heads, channels of a head, channels of a token.
        scale: factor on query-key products, 1 / sqrt(head_dim) as a rule.
        bias: (1, heads, tokens, tokens) term of the trained query-key scores, or None. Networks
            with relative position embedding have one.
        has_map: whether its attention is a map of all tokens, which SAM's windows are not.
        tower: the image tower that the block belongs to, which sets it.
    """

    bias: Tensor | None = None
    has_map = True

    def __init__(
        self,
        module: Any,
        index: int,
        depth: int,
        prefix: int = 1,
        network: str = "this network",
    ) -> None:
        self.module = module
        self.index = index
        self.depth = depth
        self.prefix = prefix
        self.has_class_token = prefix > 0  # for registers alone, timm's tower sets False
        self.network = network
        self.num_heads, self.width, self.head_dim, self.scale = self._sizes()
        self.norm_1, self.layer_scale_1, self.norm_2, self.layer_scale_2 = self._around()
        self._linear: defaultdict[str, Linear] = defaultdict(Linear)
        self.tower: Any = None
        self._hidden: Callable[[Block, Tensor], Tensor] | None = None
        self.hidden_key: str | None = None

    def save_memory(self) -> None:
        """Keep no second copy of the weights, see `Linear`. Results keep their bits."""
        self._linear = defaultdict(partial(Linear, keep=False))

    def forget_copies(self) -> None:
        """Free the second copy of the weights; the next call makes it anew."""
        self._linear.clear()

    def with_hidden(self, edit: Callable[[Block, Tensor], Tensor], key: str | None) -> Block:
        """Return the same block with an edit of the MLP's activations: (block, (batch, tokens,
        hidden)) -> the same shape. Edits with equal keys compute the same thing."""
        edited = copy.copy(self)
        edited._hidden, edited.hidden_key = edit, key
        return edited

    def _sizes(self) -> tuple[int, int, int, float]:
        """Heads, channels of a token, channels of a head, and scale."""
        heads, width = self.module.attn.num_heads, self.module.attn.in_proj_weight.shape[1]
        head_dim = width // heads
        return heads, width, head_dim, head_dim**-0.5

    def _weight(self, name: str) -> Weight:
        """Weight (heads * head_dim, width) and bias of a projection, or those of ``output``."""
        attention = self.module.attn
        if name == "output":
            return attention.out_proj.weight, attention.out_proj.bias
        rows = slice(*(self.width * (PROJECTIONS.index(name) + i) for i in (0, 1)))
        bias = attention.in_proj_bias
        return attention.in_proj_weight[rows], None if bias is None else bias[rows]

    def _apply(self, name: str, x: Tensor) -> Tensor:
        return self._linear[name](x, *self._weight(name))

    @property
    def products(self) -> Sequence[nn.Module]:
        """The modules that multiply matrices, whose precision can be lowered."""
        return self.module.attn, self.module.mlp

    @property
    def activation(self) -> nn.Module:
        """The activation of the MLP."""
        mlp = self.module.mlp
        return getattr(mlp, "gelu", None) or mlp.act

    def _around(self) -> tuple[Map, Map, Map, Map]:
        """What stands before and behind the attention, then before and behind the MLP."""
        module, none = self.module, nn.Identity()
        scales = getattr(module, "ls_1", none), getattr(module, "ls_2", none)
        return module.ln_1, scales[0], module.ln_2, scales[1]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products; norms and the token stream can have a higher one."""
        return self._weight("query")[0].dtype

    def need_class_token(self, who: str, instead: str) -> None:
        """Raise a LabError if the network has no class token, which ``who`` reads; the error says
        what to do ``instead``."""
        if not self.has_class_token:
            raise LabError(f"{who} needs a class token; {self.network} has none; {instead}")

    def among_tokens(self, matrix: Tensor) -> Tensor:
        """Extend a matrix among class token and patches, (..., 1 + patches, 1 + patches), to all
        tokens: (..., tokens, tokens). Every token before the patches gets the class token's row and
        column; without such tokens both are dropped."""
        if self.prefix == 1:
            return matrix
        places = [*[0] * self.prefix, *range(1, matrix.shape[-1])]
        index = torch.tensor(places, device=matrix.device)
        return matrix.index_select(-2, index).index_select(-1, index)

    def norm(self, tokens: Tokens) -> Tokens:
        """Apply LN1, which the projections read: (batch, tokens, width) -> the same shape."""
        return self.norm_1(tokens).to(self.dtype)

    def heads(self, x: Tensor) -> PerHead:
        """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim).

        Raises:
            LabError: ``x`` has another number of channels.
        """
        batch, tokens, channels = x.shape
        if channels % self.head_dim:
            raise LabError(
                f"{self.network}: {channels} channels cannot be cut into heads of {self.head_dim}"
            )
        return x.view(batch, tokens, -1, self.head_dim).transpose(1, 2)

    def project(self, normed: Tokens, name: str) -> PerHead:
        """Compute a projection of LN1's output, as the block's attention uses it but not scaled:
        (batch, tokens, width) -> (batch, heads, tokens, head_dim). ``name`` is one of
        ``PROJECTIONS`` or ``BEFORE_ROTATION``."""
        name = name.removesuffix("_before_rotation")
        return self.heads(self._apply(name, normed))

    def bias_of(self, query: PerHead) -> Tensor | None:
        """Return the trained term of the scores of these queries, (1 or batch, heads, tokens,
        tokens), with zeros for tokens behind the patches."""
        return padded(self.bias, query.shape[2])

    def output(self, weights: Weights, value: PerHead) -> Tokens:
        """Compute O(A): (batch, heads, tokens, tokens) weights, whose rows may sum to anything, and
        (batch, heads, tokens, head_dim) values -> (batch, tokens, width), layer scale included."""
        return self.merge(weights.to(value.dtype) @ value)

    def merge(self, per_head: PerHead) -> Tokens:
        """Apply O and layer scale: (batch, heads, tokens, head_dim) -> (batch, tokens, width)."""
        return self.layer_scale_1(self._apply("output", per_head.transpose(1, 2).flatten(2)))

    def mlp(self, tokens: Tokens) -> Tokens:
        """MLP(LN2(x)), layer scale included: (batch, tokens, width) -> the same shape."""
        return self.layer_scale_2(self._mlp(self.norm_2(tokens).to(self.dtype)))

    def with_mlp(self, attended: Tokens, entered: Tokens) -> Tokens:
        """Add the MLP to ``attended``, (batch, tokens, width) with the attention's output. Blocks
        with attention and MLP beside each other give ``entered``, the block's input, to both."""
        return attended + self.mlp(attended)

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.module.mlp
        return self._two_layers(normed, weight_of(mlp.c_fc), weight_of(mlp.c_proj))

    def _two_layers(self, x: Tensor, first: Weight, second: Weight) -> Tensor:
        activation = self.activation
        if is_quick_gelu(activation) and not torch.is_grad_enabled():
            hidden = self._linear["first"](x, *first)
            # The operations and bits of the module's own forward, without its three temporaries
            # of the hidden size: one window at a time stays in the processor's cache.
            for window in hidden.split(1 if hidden.device.type == "cpu" else len(hidden)):
                window.mul_(torch.mul(window, QUICK_GELU).sigmoid_())
        else:
            hidden = self._linear["first"](x, *first, activation)
        if self._hidden is not None:
            hidden = self._hidden(self, hidden)
        return self._linear["second"](hidden, *second)

    def plain(self, tokens: Tokens) -> Tokens:
        """Run the block as trained, with a fused attention; (batch, tokens, width) in and out."""
        return self.with_mlp(tokens + self._attended(self.norm(tokens)), tokens)

    def _attended(self, normed: Tokens) -> Tokens:
        query, key, value = (self.project(normed, name) for name in PROJECTIONS)
        bias = self.bias_of(query)
        attended = F.scaled_dot_product_attention(
            *(query, key, value),
            attn_mask=None if bias is None else bias.to(query.dtype),
            scale=None if self.scale == self.head_dim**-0.5 else self.scale,
        )
        return self.merge(attended)


def weight_of(layer: Any) -> Weight:
    return layer.weight, layer.bias


def padded(bias: Tensor | None, tokens: int) -> Tensor | None:
    more = 0 if bias is None else tokens - bias.shape[-1]
    return bias if bias is None or not more else F.pad(bias, (0, more) * 2)


def softmax_scores(scores: Tensor, bias: Tensor | None = None) -> Tensor:
    """Take the softmax over rows of (batch, heads, tokens, tokens) scores plus an optional bias."""
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1)

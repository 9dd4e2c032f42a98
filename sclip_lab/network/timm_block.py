"""Blocks of timm's vision transformers, read by the names of their weights.

timm has several classes of blocks and of attention whose parts do the same. What counts is which
parts a module has: one projection of query, key and value or three, norms of query and key, rotary
or relative position embedding, norms before or behind attention and MLP.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.core.shapes import PerHead, Tokens
from sclip_lab.network.block import PROJECTIONS, Block, Weight

# Classes of blocks, and whether their norms stand behind attention and MLP.
BLOCKS = {
    "Block": False,
    "EvaBlock": False,
    "RelPosBlock": False,
    "ResPostBlock": True,
    "EvaBlockPostNorm": True,
    "ResPostRelPosBlock": True,
}
ATTENTIONS = {"Attention", "AttentionRope", "EvaAttention", "RelPosAttention"}
# Names of the last layer of an MLP.
LAST_LAYERS = ("fc2", "w2", "w3")


class TimmBlock(Block):
    """A block of timm's.

    Attributes:
        rope: sine and cosine of the rotary embedding, (patches, 2 * head_dim) or
            (heads, patches, 2 * head_dim); None without one, and before `placed`.
        rotates: whether query and key are rotated.

    Raises:
        LabError: a block with other parts, naming the one that is not supported.
    """

    rope: Tensor | None = None

    def __init__(
        self,
        module: Any,
        index: int,
        depth: int,
        prefix: int = 0,
        network: str = "this network",
        has_class_token: bool | None = None,
        rotates: bool = False,
    ) -> None:
        _check(module, network)
        self.rotates = rotates
        super().__init__(module, index, depth, prefix, network, has_class_token)

    def placed(self, rope: Tensor | None, bias: Tensor | None) -> TimmBlock:
        """Return this block with the rotary embedding and the score bias of one grid."""
        block = copy.copy(self)
        block.rope, block.bias = rope, bias
        return block

    @property
    def _post_norm(self) -> bool:
        return BLOCKS[type(self.module).__name__]

    def _sizes(self) -> tuple[int, int, float]:
        attention = self.module.attn
        first = attention.q_proj if attention.qkv is None else attention.qkv
        rows = first.out_features // (1 if attention.qkv is None else 3)
        return first.in_features, rows // self.num_heads, attention.scale

    def _weight(self, name: str) -> Weight:
        attention, which = self.module.attn, PROJECTIONS.index(name)
        if attention.qkv is None:
            layer = getattr(attention, f"{name[0]}_proj")
            return layer.weight, layer.bias
        rows = slice(*(len(attention.qkv.weight) // 3 * (which + i) for i in (0, 1)))
        if attention.qkv.bias is not None:
            return attention.qkv.weight[rows], attention.qkv.bias[rows]
        return attention.qkv.weight[rows], getattr(attention, f"{name[0]}_bias", None)

    @property
    def out_projection(self) -> nn.Linear:
        return self.module.attn.proj

    def _norms(self) -> tuple[nn.Module, nn.Module]:
        if self._post_norm:
            return nn.Identity(), nn.Identity()
        return self.module.norm1, self.module.norm2

    def _layer_scales(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        if self._post_norm:
            return _behind(self.module.norm1), _behind(self.module.norm2)
        if hasattr(self.module, "ls1"):
            return self.module.ls1, self.module.ls2
        return _times(self.module.gamma_1), _times(self.module.gamma_2)

    def project(self, normed: Tokens, name: str) -> PerHead:
        plain, attention = name.removesuffix("_before_rotation"), self.module.attn
        per_head = super().project(normed, name)
        if plain != "value":
            norm = getattr(attention, f"{plain[0]}_norm", None)
            per_head = per_head if norm is None else norm(per_head)
            if self.rotates and plain == name:
                per_head = self._rotated(per_head)
        groups = getattr(attention, "num_kv_groups", 1)
        if groups > 1 and plain != "query":
            per_head = per_head.repeat_interleave(groups, dim=1)
        return per_head

    def _rotated(self, per_head: PerHead) -> PerHead:
        if self.rope is None:
            raise LabError(
                f"{self.network}: its rotary embedding depends on the grid of patches; take the "
                "blocks from backbone.blocks_on(grid)"
            )
        patches = slice(self.prefix, self.prefix + self.rope.shape[-2])
        half = getattr(self.module.attn, "rotate_half", False)
        turned: Tensor = apply_rot_embed_cat(per_head[:, :, patches], self.rope, half=half)
        parts = per_head[:, :, : patches.start], turned, per_head[:, :, patches.stop :]
        return torch.cat([part.to(per_head.dtype) for part in parts], dim=2)

    def merge(self, per_head: PerHead) -> Tokens:
        norm = getattr(self.module.attn, "norm", None)
        if norm is not None and not isinstance(norm, nn.Identity):
            joined = norm(per_head.transpose(1, 2).flatten(2))
            per_head = joined.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return super().merge(per_head)

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.module.mlp
        plain = type(mlp).__name__ == "Mlp" and isinstance(mlp.norm, nn.Identity)
        if plain:
            return self._two_layers(normed, mlp.fc1, mlp.act, mlp.fc2)
        if self._hidden is None:
            return mlp(normed)
        # A gated MLP, or one with a norm inside: the edit sees what enters its last layer.
        edit = self._hidden
        [last] = [getattr(mlp, name) for name in LAST_LAYERS if hasattr(mlp, name)][-1:]
        handle = last.register_forward_pre_hook(lambda _, inputs: (edit(self, inputs[0]),))
        try:
            return mlp(normed)
        finally:
            handle.remove()


def _times(gamma: Tensor | None) -> Callable[[Tensor], Tensor]:
    return nn.Identity() if gamma is None else lambda x: gamma * x


def _behind(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    # The norm has the precision of the token stream, its input that of the matrix products.
    weight = next(norm.parameters())
    return lambda x: norm(x.to(weight.dtype))


def _check(module: Any, network: str) -> None:
    kind = type(module).__name__
    if kind not in BLOCKS:
        raise LabError(
            f"{network}: its blocks are of timm's class {kind}; supported are {', '.join(BLOCKS)}"
        )
    attention = getattr(module, "attn", None)
    if type(attention).__name__ not in ATTENTIONS:
        raise LabError(
            f"{network}: {type(attention).__name__} attention; supported are "
            f"{', '.join(sorted(ATTENTIONS))}"
        )
    if not BLOCKS[kind] and not hasattr(module, "ls1") and not hasattr(module, "gamma_1"):
        raise LabError(f"{network}: its {kind} has neither ls1 nor gamma_1, timm's layer scales")
    if getattr(attention, "gate", None) is not None:
        raise LabError(f"{network}: its attention has a gate, which variants cannot rewrite")


def relative_bias(module: Any, grid: tuple[int, int]) -> Tensor | None:
    """Compute the relative position bias of one attention for a grid of patches.

    Args:
        module: timm's, with ``window_size`` and a table or a small network; or None.
        grid: (grid_h, grid_w). Another grid than the trained one gets the bias that timm resizes.

    Returns:
        (1, heads, tokens, tokens), or None for no module.
    """
    if module is None or getattr(module, "window_size", None) is None:
        return None
    if tuple(module.window_size) != tuple(grid):
        module = copy.deepcopy(module)
        module.set_window_size(tuple(grid))
    if hasattr(module, "get_bias"):
        return module.get_bias()
    bias = module._get_rel_pos_bias() if hasattr(module, "_get_rel_pos_bias") else module()
    return bias if bias.ndim == 4 else bias[None]

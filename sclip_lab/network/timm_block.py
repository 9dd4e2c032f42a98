"""Blocks of timm's vision transformers, read by the names of their weights.

timm has several classes of blocks and of attention whose parts do the same. What counts is which
parts a module has: one projection of query, key and value or three, norms of query and key, rotary
or relative position embedding, norms before or behind attention and MLP or both, MLP behind or
beside attention.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from timm.models import vision_transformer_sam as sam
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.core.shapes import PerHead, Tokens
from sclip_lab.network.block import PROJECTIONS, Block, Map, Weight, padded, weight_of

# Classes of blocks whose norms stand before attention and MLP, behind them, or both.
BEFORE = {
    *("Block", "EvaBlock", "RelPosBlock", "DeepseekVitBlock", "ParallelScalingBlock"),
    "Transformer",  # of VOLO
}
BEHIND = {"ResPostBlock", "EvaBlockPostNorm", "ResPostRelPosBlock"}
BOTH = {"Gemma4Block"}
# Classes that never have a layer scale. Others without one are of a release that is not known here.
UNSCALED = {"DeepseekVitBlock", "Transformer"}
ATTENTIONS = {
    *("Attention", "AttentionRope", "EvaAttention", "RelPosAttention", "Gemma4Attention"),
    "ParallelScalingBlock",  # its own attention
}
# Why the attention of other classes cannot be rewritten.
OTHERS = {
    "DiffAttention": "subtracts one softmax from another",
    "DiffParallelScalingBlock": "subtracts one softmax from another",
    "ParallelThingsBlock": "has several attentions beside each other",
    "TalkingHeadAttn": "mixes its heads before and behind the softmax",
    "GPSA": "adds attention by position to its softmax",
    "XCA": "attends across channels and not across patches",
}
# Names of the last layer of an MLP.
LAST_LAYERS = ("fc2", "w2", "w3", "down_proj")


class TimmBlock(Block):
    """A block of timm's.

    Attributes:
        rope: sine and cosine of the rotary embedding, (patches, 2 * head_dim) or
            (heads, patches, 2 * head_dim); None without one, and before `placed`.
        rotates: whether query and key are rotated.
        grid: (grid_h, grid_w) of the patches; None before `placed`.
    """

    rope: Tensor | None = None
    rotates = False
    grid: tuple[int, int] | None = None

    def placed(self, grid: tuple[int, int], rope: Tensor | None, bias: Tensor | None) -> TimmBlock:
        """Return this block with the rotary embedding and the score bias of one grid."""
        block = copy.copy(self)
        block.grid, block.rope, block.bias = grid, rope, bias
        return block

    @property
    def _attention(self) -> Any:
        return getattr(self.module, "attn", self.module)  # parallel blocks are their attention

    def _on_grid(self, value: Any) -> Any:
        if value is None:
            raise LabError(
                f"{self.network}: its position embedding depends on the grid of patches; take the "
                "blocks from backbone.blocks_on(grid)"
            )
        return value

    def _sizes(self) -> tuple[int, int, int, float]:
        attention = self._attention
        weight = self._weight("query")[0]
        # Gemma's queries and keys have unit norm, and no scale.
        scale = getattr(attention, "scale", 1.0)
        return attention.num_heads, weight.shape[1], len(weight) // attention.num_heads, scale

    def _layer(self, name: str) -> Any:
        attention = self._attention
        if name == "output":
            return attention.proj if hasattr(attention, "proj") else attention.o_proj
        return getattr(attention, f"{name[0]}_proj")

    def _weight(self, name: str) -> Weight:
        attention = self._attention
        packed = getattr(attention, "qkv", None)
        if packed is None or name == "output":
            layer = self._layer(name)
            return weight_of(getattr(layer, "linear", layer))  # Gemma's has limits around it
        which = PROJECTIONS.index(name)
        rows = slice(*(len(packed.weight) // 3 * (which + i) for i in (0, 1)))
        if packed.bias is not None:
            return packed.weight[rows], packed.bias[rows]
        return packed.weight[rows], getattr(attention, f"{name[0]}_bias", None)

    def _apply(self, name: str, x: Tensor) -> Tensor:
        if not hasattr(self._attention, "o_proj"):
            return super()._apply(name, x)
        layer = self._layer(name)
        if not layer.use_clipped:
            return super()._apply(name, x)
        product = super()._apply(name, x.clamp(layer.input_min, layer.input_max))
        return product.clamp(layer.output_min, layer.output_max)

    def _around(self) -> tuple[Map, Map, Map, Map]:
        module, kind, none = self.module, type(self.module).__name__, nn.Identity()
        if kind in BOTH:
            return module.norm1, _behind(module.norm2), module.norm3, _behind(module.norm4)
        if kind in BEHIND:
            return none, _behind(module.norm1), none, _behind(module.norm2)
        scales: tuple[Map, Map]
        if kind in UNSCALED:
            scales = none, none
        elif hasattr(module, "ls1"):
            scales = module.ls1, module.ls2
        else:
            scales = _times(module.gamma_1), _times(module.gamma_2)
        return module.norm1, scales[0], module.norm2, scales[1]

    def project(self, normed: Tokens, name: str) -> PerHead:
        plain, attention = name.removesuffix("_before_rotation"), self._attention
        per_head = super().project(normed, name)
        norm = getattr(attention, f"{plain[0]}_norm", None)
        per_head = per_head if norm is None else norm(per_head)
        if self.rotates and plain == name != "value":
            per_head = self._rotated(per_head)
        groups = getattr(attention, "num_kv_groups", 1)
        if groups > 1 and plain != "query":
            per_head = per_head.repeat_interleave(groups, dim=1)
        return per_head

    def _rotated(self, per_head: PerHead) -> PerHead:
        rope = self._on_grid(self.rope)
        patches = slice(self.prefix, self.prefix + rope.shape[-2])
        x, half = per_head[:, :, patches], getattr(self._attention, "rotate_half", False)
        turned: Tensor
        if type(self.module).__name__ in BOTH:  # Gemma turns the channels of each axis by itself
            per_axis = rope.unflatten(-1, (2, 2, -1)).transpose(-3, -2).flatten(-2)
            turned = apply_rot_embed_cat(x.unflatten(-1, (2, -1)), per_axis, half=True).flatten(-2)
        else:
            turned = apply_rot_embed_cat(x, rope, half=half)
        parts = per_head[:, :, : patches.start], turned, per_head[:, :, patches.stop :]
        return torch.cat([part.to(per_head.dtype) for part in parts], dim=2)

    def bias_of(self, query: PerHead) -> Tensor | None:
        attention = self._attention
        if not getattr(attention, "use_rel_pos", False):
            return super().bias_of(query)
        # SAM's term depends on the query: its product with one vector per distance in each axis.
        grid = self._on_grid(self.grid)
        patches = query[:, :, : grid[0] * grid[1]].flatten(0, 1)
        tables = attention.rel_pos_h, attention.rel_pos_w
        bias = sam.get_decomposed_rel_pos_bias(patches, *tables, grid, grid)
        return padded(bias.unflatten(0, query.shape[:2]), query.shape[2])

    def merge(self, per_head: PerHead) -> Tokens:
        norm = getattr(self._attention, "norm", None)
        if norm is not None and not isinstance(norm, nn.Identity):
            joined = norm(per_head.transpose(1, 2).flatten(2))
            per_head = joined.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return super().merge(per_head)

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.module.mlp
        plain = type(mlp).__name__ == "Mlp" and isinstance(mlp.norm, nn.Identity)
        if plain:
            return self._two_layers(normed, weight_of(mlp.fc1), weight_of(mlp.fc2))
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


class ParallelBlock(TimmBlock):
    """A block with attention and MLP beside each other: ``x + O(A) + M(x)``, both behind one norm,
    with packed first layers (ViT-22B, arXiv 2302.05442)."""

    def _sizes(self) -> tuple[int, int, int, float]:
        module = self.module
        return module.num_heads, module.in_norm.weight.numel(), module.head_dim, module.scale

    def _first(self, part: int) -> Weight:
        """Weight and bias of a part of the packed layer: 0 the MLP, 1 query, 2 key, 3 value."""
        packed, sizes = self.module.in_proj, self.module.in_split
        rows = slice(sum(sizes[:part]), sum(sizes[: part + 1]))
        return packed.weight[rows], None if packed.bias is None else packed.bias[rows]

    def _weight(self, name: str) -> Weight:
        if name == "output":
            return weight_of(self.module.attn_out_proj)
        return self._first(1 + PROJECTIONS.index(name))

    @property
    def products(self) -> Sequence[nn.Module]:
        module = self.module
        return module.in_proj, module.attn_out_proj, module.mlp_out_proj

    @property
    def activation(self) -> nn.Module:
        return self.module.mlp_act

    def _around(self) -> tuple[Map, Map, Map, Map]:
        module = self.module
        return module.in_norm, module.ls, module.in_norm, module.ls

    def _mlp(self, normed: Tensor) -> Tensor:
        weight, bias = self._first(0)
        bias = self.module.mlp_bias.to(weight) if bias is None else bias
        return self._two_layers(normed, (weight, bias), weight_of(self.module.mlp_out_proj))

    def with_mlp(self, attended: Tokens, entered: Tokens) -> Tokens:
        return attended + self.mlp(entered)


class WindowedBlock(TimmBlock):
    """A block of SAM's that attends within windows of the patch grid. It runs as trained; variants
    cannot rewrite it."""

    has_map = False  # True in the copy that runs inside the windows

    def project(self, normed: Tokens, name: str) -> PerHead:
        if self.has_map:
            return super().project(normed, name)
        raise LabError(
            f"{self.network}: block {self.index} attends within windows of "
            f"{self.module.window_size} x {self.module.window_size} patches, which has no map of "
            "all patches; choose another layer, such as -1"
        )

    def _attended(self, normed: Tokens) -> Tokens:
        side, grid = self.module.window_size, self._on_grid(self.grid)
        windows, size = sam.window_partition(normed.unflatten(1, grid), side)
        block = copy.copy(self)
        block.grid, block.has_map = (side, side), True
        attended = TimmBlock._attended(block, windows.flatten(1, 2))
        joined = sam.window_unpartition(attended.unflatten(1, (side, side)), side, grid, size)
        return joined.flatten(1, 2)


def block_of(module: Any, *arguments: Any) -> TimmBlock:
    """Wrap one of timm's blocks in the class that suits its parts; arguments as of `Block`."""
    if hasattr(module, "in_proj"):
        return ParallelBlock(module, *arguments)
    return (WindowedBlock if getattr(module, "window_size", 0) else TimmBlock)(module, *arguments)


def _times(gamma: Tensor | None) -> Map:
    return nn.Identity() if gamma is None else lambda x: gamma * x


def _behind(norm: nn.Module) -> Map:
    # The norm has the precision of the token stream, its input that of the matrix products.
    weight = next(norm.parameters())
    return lambda x: norm(x.to(weight.dtype))


def check_block(module: Any, network: str) -> None:
    """Refuse a block whose attention is no softmax over patches, or that is not known here.

    Raises:
        LabError: the message names the class or part that is not supported.
    """
    kind = type(module).__name__
    attention = getattr(module, "attn", module)
    attends = type(attention).__name__
    for name in (kind, attends):
        if name in OTHERS:
            raise LabError(
                f"{network}: its attention, timm's {name}, {OTHERS[name]}; a variant's weights "
                "cannot take its place"
            )
    kinds = BEFORE | BEHIND | BOTH
    for name, names, what in ((kind, kinds, "blocks"), (attends, ATTENTIONS, "attention")):
        if name not in names:
            raise LabError(
                f"{network}: timm's class {name} of {what} is not supported; supported are "
                f"{', '.join(sorted(names))}"
            )
    scales = ("ls1", "gamma_1", "in_proj")
    if kind in BEFORE - UNSCALED and not any(hasattr(module, name) for name in scales):
        raise LabError(f"{network}: its {kind} has neither ls1 nor gamma_1, timm's layer scales")
    # SAM's attention can rotate by itself; a parallel block can share its last layer with the MLP.
    parts = {"gate": "a gate", "rope": "a rotation", "out_proj": "a last layer"}
    for part, what in parts.items():
        if getattr(attention, part, None) is not None:
            raise LabError(
                f"{network}: its attention has {what} of its own, which is not supported"
            )


def relative_bias(module: Any, grid: tuple[int, int]) -> Tensor | None:
    """Compute the relative position bias, (1, heads, tokens, tokens), for a grid of patches.

    ``module`` is timm's, with ``window_size`` and a table or a small network; for other modules and
    None, None is returned. For another grid than the trained one, timm resizes the bias.
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

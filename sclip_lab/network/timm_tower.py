"""timm's vision transformers: ``VisionTransformer`` and its kin, ``Eva`` (EVA-02, PE, DINOv3),
BEiT, relative positions, NaFlex; alone, or as the trunk of an open_clip model (SigLIP, PE-Core,
MobileCLIP).

They may have a class token, register tokens, LayerScale, norms of query and key, rotary or relative
position embedding, gated MLPs, convolutions before the patches, and attention pooling.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.network.block import Block
from sclip_lab.network.context import Grid, State
from sclip_lab.network.position_embedding import interpolate
from sclip_lab.network.timm_block import TimmBlock, relative_bias
from sclip_lab.network.tower import Tower

# Learned tokens before the patches, in their order.
FIRST_TOKENS = ("cls_token", "reg_token", "dist_token")
NEEDED = ("blocks", "norm", "forward_head")


class TimmTower(Tower):
    """One of timm's vision transformers.

    Alone it embeds an image by its own pooling, and a patch as the token behind the last norm.
    Inside open_clip a patch embedding is the pooling of that patch alone, then the projection. With
    attention pooling this is what MaskCLIP (arXiv 2112.01071, section 3.2) does to the pooling of
    CLIP's ResNets: over one key the softmax is 1, and query and key drop out.

    Args:
        name: of the network, for messages.
        trunk: timm's model.
        projection: what open_clip puts behind it; None for timm's model alone.
    """

    blocks: list[TimmBlock]

    def __init__(self, name: str, trunk: Any, projection: Any = None) -> None:
        _check(name, trunk, projection)
        self._name, self._trunk, self._projection = name, trunk, projection
        self._embeds = getattr(trunk, "embeds", trunk)  # NaFlex keeps its tokens there
        self._stem = getattr(trunk, "patch_embed", self._embeds)
        first = [getattr(self._embeds, part, None) for part in FIRST_TOKENS]
        self._first = [token for token in first if token is not None]
        self.prefix = sum(token.shape[1] for token in self._first)
        self.has_class_token = first[0] is not None
        self.patch_size, self._trained = _patches(name, self._stem)
        self.image_size = self._trained[0] * self.patch_size
        self._rope = getattr(trunk, "rope", None)
        self.modules = list(trunk.blocks)
        about = (len(self.modules), self.prefix, name, self.has_class_token, self._rope is not None)
        self.blocks = [TimmBlock(m, i, *about) for i, m in enumerate(self.modules)]
        self._placed: dict[Grid, list[TimmBlock]] = {}
        for block in self.blocks:
            block.tower = self

    @cached_property
    def _relative(self) -> list[Any]:
        """Return for each block the module with its relative position bias, or None."""
        shared = getattr(self._trunk, "rel_pos_bias", None) or getattr(
            self._trunk, "shared_rel_pos", None
        )
        modules = []
        for module in self.modules:
            attention = module.attn
            relative = getattr(attention, "rel_pos", None)
            if getattr(attention, "relative_position_bias_table", None) is not None:
                relative = attention
            modules.append(relative if relative is not None else shared)
        return modules

    def blocks_on(self, grid: Grid) -> Sequence[Block]:
        grid = (int(grid[0]), int(grid[1]))
        if self._rope is None and not any(module is not None for module in self._relative):
            return self.blocks
        if grid not in self._placed:
            self._placed = {grid: self._place(grid)}
        return self._placed[grid]

    # Ordinary tensors, which a training pass can use as well.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _place(self, grid: Grid) -> list[TimmBlock]:
        rope = self._rotation(grid)
        each = rope if rope is not None and rope.ndim == 4 else [rope] * len(self.blocks)
        return [
            block.placed(rotation, relative_bias(module, grid))
            for block, rotation, module in zip(self.blocks, each, self._relative, strict=True)
        ]

    def moved(self) -> None:
        self._placed = {}

    def _rotation(self, grid: Grid) -> Tensor | None:
        rope = self._rope
        if rope is None:
            return None
        if getattr(rope, "feat_shape", None) is None:
            return rope.get_embed(shape=list(grid))
        # It holds the angles of its own grid, and returns those whatever shape is asked for.
        rope = copy.deepcopy(rope)
        rope.update_feat_shape(list(grid))
        return rope.get_embed()

    @cached_property
    def embed_dim(self) -> int:
        # The last layer with a width may be any of four; the head knows.
        weight = self._weight_of_norms()
        with torch.inference_mode():
            return self.head(torch.zeros(1, self.blocks[0].width).to(weight)).shape[-1]

    def _weight_of_norms(self) -> Tensor:
        return self.modules[0].norm1.weight

    def patches(self, images: Tensor) -> Tensor:
        stem = self._stem
        weight = next(stem.parameters())
        features = images.to(weight)
        if hasattr(stem, "backbone"):  # convolutions
            features = stem.backbone(features)
            features = features[-1] if isinstance(features, list | tuple) else features
        if isinstance(stem.proj, nn.Linear):
            features = F.conv2d(
                features, self._as_convolution(stem), stem.proj.bias, stride=self.patch_size
            )
        else:
            features = stem.proj(features)
        return features.flatten(2).transpose(1, 2)

    def _as_convolution(self, stem: Any) -> Tensor:
        """Return NaFlex's projection of flattened patches as the weight of a convolution."""
        weight, side = stem.proj.weight, self.patch_size
        if stem.channels_last:
            return weight.view(len(weight), side, side, -1).permute(0, 3, 1, 2)
        return weight.view(len(weight), -1, side, side)

    def first_norm(self, tokens: Tensor) -> Tensor:
        norm = getattr(self._trunk, "norm_pre", None)
        return tokens if norm is None else norm(tokens)

    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        tokens = patches.to(self._weight_of_norms().dtype)
        norm = getattr(self._stem, "norm", None)
        tokens = tokens if norm is None else norm(tokens)
        first = [token[0] for token in self._first]
        prefix = torch.cat(first) if first else tokens.new_empty(0, tokens.shape[-1])
        position = getattr(self._embeds, "pos_embed", None)
        if position is not None:
            rows = position.flatten(0, -2)
            count = len(rows) - self._trained[0] * self._trained[1]  # 0: patches only
            # The rules expect a class token's row first.
            table = interpolate(F.pad(rows[count:], (0, 0, 1, 0)), self._trained, grid, rule)
            tokens = tokens + table[1:]
            prefix = prefix + rows[:count] if count else prefix
        if self.prefix:
            tokens = torch.cat([prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.first_norm(tokens)

    def head(self, tokens: Tensor) -> Tensor:
        """Apply the last norm, which timm calls fc_norm where it pools by the mean. Inside
        open_clip, the pooling of each token alone and the projection follow."""
        trunk = self._trunk
        x = trunk.norm(tokens.to(self._weight_of_norms().dtype))
        if self._projection is None:
            return trunk.fc_norm(x) if hasattr(trunk, "fc_norm") else x
        pool = getattr(trunk, "attn_pool", None)
        if pool is not None:
            width = pool.kv.out_features // 2  # keys first, values second
            bias = None if pool.kv.bias is None else pool.kv.bias[width:]
            x = pool.proj(F.linear(x, pool.kv.weight[width:], bias))
            if pool.mlp is not None:
                x = x + pool.mlp(pool.norm(x))
        return self._projection(trunk.head(trunk.fc_norm(x)))

    def embeddings(self, state: State) -> tuple[Tensor, Tensor]:
        trunk = self._trunk
        whole = trunk.forward_head(trunk.norm(state.tokens.to(self._weight_of_norms().dtype)))
        if whole.ndim == 3:  # not pooled
            whole = whole[:, 0] if self.has_class_token else whole.mean(1)
        if self._projection is not None:
            whole = self._projection(whole)
        return self.head(state.readout)[:, self.prefix :], whole


def _patches(name: str, stem: Any) -> tuple[int, Grid]:
    """Return the side of a patch in pixels, convolutions before it included, and the trained
    grid."""
    sides = stem.feat_ratio(as_scalar=False) if hasattr(stem, "feat_ratio") else stem.patch_size
    if len(set(sides)) > 1:
        raise LabError(f"backbone {name}: patches of {sides} pixels; square ones are supported")
    grid = stem.pos_embed_grid_size if hasattr(stem, "pos_embed_grid_size") else stem.grid_size
    return int(sides[0]), (int(grid[0]), int(grid[1]))


def _check(name: str, trunk: Any, projection: Any) -> None:
    def refuse(what: str) -> LabError:
        return LabError(f"backbone {name}: its {type(trunk).__name__} of timm {what}")

    if getattr(trunk, "neck", None) is not None:
        raise refuse("attends within windows (SAM); as guidance it can be used")
    if hasattr(trunk, "encoder"):
        raise refuse("wraps an encoder, as those of language models do, which is not supported")
    missing = [part for part in NEEDED if not hasattr(trunk, part)]
    if missing == ["norm"]:
        raise refuse("has no norm behind its blocks, so its tokens are no embeddings")
    stem = getattr(trunk, "patch_embed", getattr(trunk, "embeds", None))
    if missing or not hasattr(stem, "proj"):
        raise refuse(f"is no plain vision transformer: it has no {', '.join(missing) or 'patches'}")
    if hasattr(trunk, "embeds") and trunk.embeds.pos_embed_type == "factorized":
        raise refuse("has factorized position embeddings, which are not supported")
    if projection is None:
        return
    pool = getattr(trunk, "attn_pool", None)
    if pool is None and trunk.global_pool not in ("avg", "token"):
        raise refuse(
            f"pools by '{trunk.global_pool}', not map, avg or token; patch tokens have no "
            "projection to text"
        )
    if pool is not None and getattr(pool, "pos_embed", None) is not None:
        raise refuse("pools with position embeddings; a patch alone has no place there")

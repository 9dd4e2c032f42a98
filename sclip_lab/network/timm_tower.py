"""timm's vision transformers: ``VisionTransformer`` and its kin, ``Eva`` (EVA-02, PE, DINOv3),
BEiT, relative positions, NaFlex, SAM's encoder, VOLO, the encoders of language models (Qwen3-VL,
Gemma 4, DeepSeek); alone, or as the trunk of an open_clip model (SigLIP, PE-Core, MobileCLIP).

They may have a class token, register tokens, LayerScale, norms of query and key, rotary or relative
position embedding, gated MLPs, convolutions before the patches or behind the blocks, and attention
pooling.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.network.block import Block
from sclip_lab.network.context import Grid, State
from sclip_lab.network.position_embedding import interpolate
from sclip_lab.network.timm_block import TimmBlock, block_of, check_block, relative_bias
from sclip_lab.network.tower import Tower

# Learned tokens before the patches, in their order.
FIRST_TOKENS = ("cls_token", "reg_token", "dist_token")
# What stands behind the blocks: a norm, SAM's convolutions, or the projector to a language model.
ENDS = ("norm", "neck", "merger", "pooler")


class TimmTower(Tower):
    """One of timm's vision transformers.

    Alone it embeds an image by its own pooling, and a patch as the token behind the last norm.
    Inside open_clip a patch embedding is the pooling of that patch alone, then the projection. With
    attention pooling this is what MaskCLIP (arXiv 2112.01071, section 3.2) does to the pooling of
    CLIP's ResNets: over one key the softmax is 1, and query and key drop out.

    SAM's embeddings are those behind its convolutions. The projector of a language model's encoder
    joins k x k patches to a cell. So a patch is embedded as a cell of k x k copies of this patch.

    Args:
        name: of the network, for messages.
        model: timm's.
        projection: what open_clip puts behind it; None for timm's model alone.
    """

    blocks: list[TimmBlock]

    def __init__(self, name: str, model: Any, projection: Any = None) -> None:
        trunk = getattr(model, "encoder", model)  # a classifier around a language model's encoder
        _check(name, trunk, projection)
        self._name, self._trunk, self._projection = name, trunk, projection
        self._embeds = getattr(trunk, "embeds", trunk)  # NaFlex keeps its learned tokens in it
        self._stem = getattr(trunk, "patch_embed", self._embeds)
        # VOLO's class token reads the patches behind the blocks; the blocks do not have it.
        self._adds_class_token = hasattr(trunk, "network")
        names = () if self._adds_class_token else FIRST_TOKENS
        first = {name: getattr(self._embeds, name, None) for name in names}
        self._first = [token for token in first.values() if token is not None]
        self.prefix = sum(token.shape[1] for token in self._first)
        self.has_class_token = first.get("cls_token") is not None
        self.patch_size, self._trained = _patches(name, model, trunk, self._stem)
        self.image_size = self._trained[0] * self.patch_size
        self._rope = getattr(trunk, "rotary_emb", None) or getattr(trunk, "rope", None)
        modules = _modules(trunk)
        about = (len(modules), self.prefix, name)
        self.blocks = [block_of(m, i, *about) for i, m in enumerate(modules)]
        self._placed: dict[Any, list[TimmBlock]] = {}
        for block in self.blocks:
            block.tower, block.rotates = self, self._rope is not None
            block.has_class_token = self.has_class_token
        self._last_norm = getattr(trunk, "norm", nn.Identity())
        self._pooled_norm = getattr(trunk, "fc_norm", nn.Identity())
        self._pool: Callable[[Tensor], Tensor] | None = getattr(model, "forward_head", None)
        if hasattr(trunk, "merger") or hasattr(trunk, "aligner") or hasattr(trunk, "pooler"):
            # The classifier has a norm and a pooling; the encoder alone has neither.
            self._pooled_norm = model.norm if model is not trunk else nn.Identity()
            self._pool = self._pool if model is not trunk else lambda x: x.mean(1)
        self._join, self._cell = _joining(trunk)

    @cached_property
    def _relative(self) -> list[Any]:
        """Return for each block the module with its relative position bias, or None."""
        trunk = self._trunk
        shared = getattr(trunk, "rel_pos_bias", None) or getattr(trunk, "shared_rel_pos", None)
        attentions = [getattr(block.module, "attn", None) for block in self.blocks]
        return [
            attention
            if getattr(attention, "relative_position_bias_table", None) is not None
            else getattr(attention, "rel_pos", None) or shared
            for attention in attentions
        ]

    def blocks_on(self, grid: Grid) -> Sequence[Block]:
        grid = (int(grid[0]), int(grid[1]))
        is_sam = hasattr(self._trunk, "neck")
        if not is_sam and self._rope is None and all(module is None for module in self._relative):
            return self.blocks
        key = grid, next(self._stem.parameters()).device
        if key not in self._placed:
            self._placed = {key: self._place(grid)}
        return self._placed[key]

    # Ordinary tensors, which a training pass can use as well.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _place(self, grid: Grid) -> list[TimmBlock]:
        rope = self._rotation(grid)
        each = rope if rope is not None and rope.ndim == 4 else [rope] * len(self.blocks)
        return [
            block.placed(grid, rotation, relative_bias(module, grid))
            for block, rotation, module in zip(self.blocks, each, self._relative, strict=True)
        ]

    def _rotation(self, grid: Grid) -> Tensor | None:
        rope: Any = self._rope
        if rope is None:
            return None
        if hasattr(self._trunk, "rotary_emb"):  # Gemma's, of places (x, y)
            places, _ = self._stem._default_patch_coord(1, *grid, rope.inv_freq.device)
            cosine, sine = rope(rope.inv_freq, places.flip(-1))
            return torch.cat([sine, cosine], dim=-1)[0]
        if getattr(rope, "feat_shape", None) is None:
            return rope.get_embed(shape=list(grid))
        # A module with ``feat_shape`` returns the angles of that grid, whatever shape it is given.
        rope = copy.deepcopy(rope)
        rope.update_feat_shape(list(grid))
        return rope.get_embed()

    @cached_property
    def embed_dim(self) -> int:
        # Any of four layers may be the last that sets the width, so the head is tried.
        weight = next(self._stem.parameters())
        with torch.inference_mode():
            return self.head(torch.zeros(1, self.blocks[0].width).to(weight)).shape[-1]

    def patches(self, images: Tensor) -> Tensor:
        stem = self._stem
        weight = next(stem.parameters())
        features = images.to(weight)
        if hasattr(stem, "backbone"):  # convolutions
            features = stem.backbone(features)
            features = features[-1] if isinstance(features, list | tuple) else features
        if self._adds_class_token:
            features = stem(features).permute(0, 2, 3, 1)
            for stage in self._trunk.network[:2]:  # outlook attention, then 2 x 2 patches to one
                features = stage(features)
            return features.flatten(1, 2)
        projection = getattr(stem, "proj", None) or stem.input_proj
        if hasattr(stem, "input_proj"):  # Gemma's, which takes -1 .. 1 and gets 0 .. 1
            features = 2 * (features - 0.5)
        if isinstance(projection, nn.Linear):
            weight, side = projection.weight, self.patch_size
            if getattr(stem, "channels_last", False):
                weight = weight.view(len(weight), side, side, -1).permute(0, 3, 1, 2)
            weight = weight.reshape(len(weight), -1, side, side)
            features = F.conv2d(features, weight, projection.bias, stride=side)
        else:
            features = projection(features)
        return features.flatten(2).transpose(1, 2)

    def first_norm(self, tokens: Tensor) -> Tensor:
        norm = getattr(self._trunk, "norm_pre", None)
        return tokens if norm is None else norm(tokens)

    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        tokens = patches.to(next(self._stem.parameters()).dtype)
        norm = getattr(self._stem, "norm", None)
        tokens = tokens if norm is None else norm(tokens)
        first = [token[0] for token in self._first]
        prefix = torch.cat(first) if first else tokens.new_empty(0, tokens.shape[-1])
        position = self._of_any_grid(grid)
        if position is not None:
            tokens = tokens + position
        elif (learned := getattr(self._embeds, "pos_embed", None)) is not None:
            rows = learned.flatten(0, -2)
            count = len(rows) - self._trained[0] * self._trained[1]  # 0: patches only
            # The rules expect a class token's row first.
            table = interpolate(F.pad(rows[count:], (0, 0, 1, 0)), self._trained, grid, rule)
            tokens = tokens + table[1:]
            prefix = prefix + rows[:count] if count else prefix
        if self.prefix:
            tokens = torch.cat([prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.first_norm(tokens)

    def _of_any_grid(self, grid: Grid) -> Tensor | None:
        """Return position embeddings, (patches, width), of networks that were trained with images
        of all sizes, which make them for any grid by themselves; None for other networks."""
        if hasattr(self._trunk, "merger"):  # Qwen's: corners stay where they are
            square = self._trunk.pos_embed.unflatten(1, self._trained).permute(0, 3, 1, 2)
            square = F.interpolate(square.float(), grid, mode="bilinear", align_corners=True)
            return square[0].flatten(1).T.to(self._trunk.pos_embed.dtype)
        if (table := getattr(self._stem, "position_embedding_table", None)) is not None:  # Gemma's
            return (table[1, : grid[0], None] + table[0, None, : grid[1]]).flatten(0, 1)
        if getattr(self._embeds, "pos_embed_type", "") != "factorized":
            return None
        position = torch.zeros_like(self._embeds.pos_embed_y[:, :1]).repeat(1, grid[0] * grid[1], 1)
        self._embeds._apply_factorized_pos_embed(position, list(grid))  # in place
        return position[0]

    def head(self, tokens: Tensor) -> Tensor:
        """Apply the last norm, which timm calls fc_norm where it pools by the mean. Inside
        open_clip, the pooling of each token alone and the projection follow."""
        trunk = self._trunk
        x = self._last_norm(tokens.to(next(self._stem.parameters()).dtype))
        if self._join is not None:
            cells = x.reshape(-1, 1, 1, x.shape[-1]).expand(-1, self._cell, self._cell, -1)
            x = self._join(cells)[:, 0].unflatten(0, x.shape[:-1])
        if self._projection is None:
            return self._pooled_norm(x)
        pool = getattr(trunk, "attn_pool", None)
        if pool is not None:
            width = pool.kv.out_features // 2  # keys first, values second
            bias = None if pool.kv.bias is None else pool.kv.bias[width:]
            x = pool.proj(F.linear(x, pool.kv.weight[width:], bias))
            if pool.mlp is not None:
                x = x + pool.mlp(pool.norm(x))
        return self._projection(trunk.head(trunk.fc_norm(x)))

    def normed(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Apply the last norm, and SAM's convolutions: (batch, tokens, width) -> (batch, tokens,
        channels)."""
        x = self._last_norm(tokens.to(next(self._stem.parameters()).dtype))
        return x if self._join is None or self._cell > 1 else self._join(x.unflatten(1, grid))

    def embeddings(self, state: State, grid: Grid) -> tuple[Tensor, Tensor]:
        tokens = state.tokens
        if self._adds_class_token:
            tokens = self._trunk.forward_cls(tokens)
        whole = self.normed(tokens, grid)
        if self._join is not None and self._cell > 1:
            if hasattr(self._trunk, "merger") and any(side % self._cell for side in grid):
                raise LabError(
                    f"{self._name} joins {self._cell} x {self._cell} patches, which a grid of "
                    f"{grid[0]} x {grid[1]} has no whole number of; choose images or windows with "
                    f"sides of a multiple of {self._cell * self.patch_size} pixels"
                )
            whole = self._join(whole.unflatten(1, grid))
        if hasattr(self._trunk, "neck"):
            whole = whole.mT.unflatten(2, grid)
        assert self._pool is not None
        whole = self._pool(whole)
        if whole.ndim == 3:  # not pooled
            whole = whole[:, 0] if self.has_class_token else whole.mean(1)
        if self._projection is not None:
            whole = self._projection(whole)
        if self._join is not None and self._cell == 1:
            return self._pooled_norm(self.normed(state.readout, grid)), whole
        return self.head(state.readout)[:, self.prefix :], whole


def _modules(trunk: Any) -> list[Any]:
    """Return timm's blocks. VOLO's lie in stages, of which the first two, outlook attention and a
    convolution, are left out."""
    if hasattr(trunk, "network"):
        return [module for stage in trunk.network[2:] for module in stage]
    return list(trunk.blocks)


def _joining(trunk: Any) -> tuple[Callable[[Tensor], Tensor] | None, int]:
    """Return the function that makes embeddings of a token grid, (batch, grid_h, grid_w, width) ->
    (batch, cells, channels), None if each token is one; and the side of a cell in patches."""
    if hasattr(trunk, "neck"):
        return lambda x: trunk.neck(x.permute(0, 3, 1, 2)).flatten(2).mT, 1
    if getattr(trunk, "merger", None) is not None:
        return trunk.merger, trunk.merger.merge_size
    if getattr(trunk, "aligner", None) is not None:
        return trunk.aligner, trunk.aligner.downsample_ratio
    if getattr(trunk, "pooler", None) is None or trunk.global_pool != "soft":
        return None, 1

    def scaled(x: Tensor) -> Tensor:
        # Gemma takes the mean of each cell first, which changes neither a patch that fills a cell
        # nor the mean of all.
        x = x.flatten(1, 2) * trunk.pooler.root_hidden_size
        return x if trunk.std_bias is None else (x - trunk.std_bias) * trunk.std_scale

    return scaled, 1


def _patches(name: str, model: Any, trunk: Any, stem: Any) -> tuple[int, Grid]:
    """Return the side of a patch in pixels, convolutions before it included, and the trained
    grid."""
    if hasattr(stem, "feat_ratio"):
        sides = stem.feat_ratio(as_scalar=False)
    elif hasattr(stem, "patch_size"):
        sides = stem.patch_size
    else:  # VOLO's, of which 2 x 2 become one
        sides = [trunk.feature_info[-1]["reduction"]]
    if len(set(sides)) > 1:
        raise LabError(f"backbone {name}: patches of {sides} pixels; square ones are supported")
    patch, position = int(sides[0]), getattr(trunk, "pos_embed", None)
    grid: Any = getattr(stem, "pos_embed_grid_size", None) or getattr(stem, "grid_size", None)
    if isinstance(side := getattr(trunk, "pos_embed_grid_size", None), int):  # Qwen's
        grid = side, side
    elif position is not None and position.ndim == 4:
        grid = position.shape[1:3]
    elif grid is None:  # Gemma's tables are longer than any image
        grid = [side // patch for side in model.pretrained_cfg["input_size"][1:]]
    return patch, (int(grid[0]), int(grid[1]))


def _check(name: str, trunk: Any, projection: Any) -> None:
    def refuse(what: str) -> LabError:
        return LabError(f"backbone {name}: its {type(trunk).__name__} of timm {what}")

    stem = getattr(trunk, "patch_embed", getattr(trunk, "embeds", None))
    parts: dict[str, tuple[Any, ...]] = {
        "blocks": (trunk, "blocks", "network"),
        "norm": (trunk, *ENDS),
        "forward_head": (trunk, "forward_head"),
        "patches": (stem, "proj", "input_proj"),
    }
    missing = [
        what for what, (part, *names) in parts.items() if not any(hasattr(part, n) for n in names)
    ]
    if missing:
        raise refuse(f"is no plain vision transformer: it has no {', '.join(missing)}")
    for module in _modules(trunk):
        check_block(module, f"backbone {name}")
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

"""An image tower as the backbone uses it, whichever library's class it is.

Three kinds: open_clip's own ViT; timm's ViT without class token that open_clip wraps, which is what
SigLIP has (Zhai et al., ICCV 2023, arXiv 2303.15343); and timm's ViT alone, with a class token or
without. All are read by the names of their weights; neither library is imported.

Shapes: ``tokens`` = prefix + grid_h * grid_w, where ``prefix`` is 1 with a class token, 0 without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.network.block import Block, TimmBlock
from sclip_lab.network.context import Grid, State
from sclip_lab.network.linear import Linear
from sclip_lab.network.position_embedding import interpolate


class Tower(ABC):
    """What the backbone asks of an image tower.

    Attributes:
        prefix: tokens before the patches, 1 or 0.
        convolution: pixels to patch tokens.
        modules: the library's blocks, each with an ``attn`` and an ``mlp``.
        blocks: the same as `Block`.
        patch_size: side of a patch in pixels.
        image_size: side of the images it was trained on, in pixels.
        settings: what changes the numbers beside weights, for a digest.
    """

    prefix: int
    convolution: nn.Conv2d
    modules: Sequence[Any]
    blocks: list[Block]
    patch_size: int
    image_size: int
    settings: dict[str, Any]

    @property
    @abstractmethod
    def embed_dim(self) -> int: ...

    @abstractmethod
    def first_norm(self, tokens: Tensor) -> Tensor:
        """The norm between position embeddings and the first block, of each token by itself:
        (batch, tokens, width), same shape out."""

    @abstractmethod
    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        """Position embedding, class token and first norm.

        Args:
            patches: (batch, grid_h * grid_w, width), from ``convolution``.
            grid: (grid_h, grid_w).
            rule: of `sclip_lab.network.position_embedding`.

        Returns:
            (batch, tokens, width), in the precision of the norms.
        """

    @abstractmethod
    def head(self, tokens: Tensor) -> Tensor:
        """Each token by itself into the space of texts: (..., width) -> (..., embed_dim)."""

    @abstractmethod
    def embeddings(self, state: State) -> tuple[Tensor, Tensor]:
        """Patch embeddings (batch, patches, embed_dim) of the readout stream, and the image's
        (batch, embed_dim) of the trained stream."""


class ClipTower(Tower):
    """open_clip's ``VisionTransformer`` with a class token."""

    prefix = 1

    def __init__(self, name: str, visual: Any) -> None:
        self._visual = visual
        self._project = Linear()
        self.modules = visual.transformer.resblocks
        _check_clip(name, visual)
        self.convolution = visual.conv1
        count = len(self.modules)
        self.blocks = [Block(module, i, count, 1, name) for i, module in enumerate(self.modules)]
        self.patch_size = visual.patch_size[0]
        self.image_size = visual.image_size[0]
        self.settings = {
            "activation": type(self.modules[0].mlp[1]).__name__,
            "eps": visual.ln_post.eps,
            "heads": self.blocks[0].num_heads,
        }
        for block in self.blocks:
            block.tower = self

    @property
    def embed_dim(self) -> int:
        return self._visual.output_dim

    def first_norm(self, tokens: Tensor) -> Tensor:
        return self._visual.ln_pre(tokens)

    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        visual = self._visual
        # Not ln_pre's: CLIPA has none.
        patches = patches.to(visual.positional_embedding.dtype)
        class_token = visual.class_embedding.expand(len(patches), 1, -1).to(patches.dtype)
        position = interpolate(visual.positional_embedding, visual.grid_size, grid, rule)
        tokens = torch.cat([class_token, patches], dim=1) + position.to(patches.dtype)
        return visual.ln_pre(tokens)

    def head(self, tokens: Tensor) -> Tensor:
        """LN_post and the final projection."""
        visual = self._visual
        embedded = visual.ln_post(tokens.to(visual.ln_post.weight.dtype))
        return embedded if visual.proj is None else self._project(embedded, visual.proj.T, None)

    def embeddings(self, state: State) -> tuple[Tensor, Tensor]:
        embedded = self.head(torch.cat([state.tokens[:, :1], state.readout[:, 1:]], dim=1))
        return embedded[:, 1:], embedded[:, 0]


class TimmTower(Tower):
    """open_clip's ``TimmModel`` around a timm ``VisionTransformer`` without class token.

    Its image embedding is pooled from the patches, by attention to one learned query (``map``,
    SigLIP) or by their mean (``avg``). A patch embedding is the same pooling of one patch alone,
    which is what MaskCLIP (arXiv 2112.01071, section 3.2) does to the attention pooling of CLIP's
    ResNets: with one key the softmax is 1 and query and key drop out.
    """

    prefix = 0

    def __init__(self, name: str, visual: Any) -> None:
        _check_timm(name, visual.trunk)
        self._visual, self._trunk = visual, visual.trunk
        embed = visual.trunk.patch_embed
        self.modules = visual.trunk.blocks
        self.convolution = embed.proj
        count = len(self.modules)
        self.blocks = [
            TimmBlock(module, i, count, 0, name) for i, module in enumerate(self.modules)
        ]
        self.patch_size = embed.patch_size[0]
        # Not visual.image_size, which open_clip notes down but does not tell the trunk.
        self.image_size = embed.img_size[0]
        self.settings = {
            "activation": str(self.modules[0].mlp.act),
            "eps": self.modules[0].norm1.eps,
            "heads": self.blocks[0].num_heads,
            "pool": visual.trunk.global_pool,
        }
        for block in self.blocks:
            block.tower = self

    @cached_property
    def embed_dim(self) -> int:
        # The last layer that has a width may be any of four; the head knows.
        with torch.inference_mode():
            return self.head(torch.zeros_like(self._trunk.pos_embed[0, :1])).shape[-1]

    def first_norm(self, tokens: Tensor) -> Tensor:
        return self._trunk.norm_pre(tokens)

    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        trunk = self._trunk
        patches = trunk.patch_embed.norm(patches.to(trunk.pos_embed.dtype))
        # The rules keep a class token's row first: lend them one.
        lent = F.pad(trunk.pos_embed[0], (0, 0, 1, 0))
        position = interpolate(lent, trunk.patch_embed.grid_size, grid, rule)[1:]
        return trunk.norm_pre(patches + position)

    def head(self, tokens: Tensor) -> Tensor:
        """The last norm, the pooling of one token alone, and the final projection if any."""
        trunk, pool = self._trunk, self._trunk.attn_pool
        x = trunk.norm(tokens.to(trunk.pos_embed.dtype))
        if pool is not None:
            width = pool.kv.out_features // 2  # keys first, values second
            bias = None if pool.kv.bias is None else pool.kv.bias[width:]
            x = pool.proj(F.linear(x, pool.kv.weight[width:], bias))
            if pool.mlp is not None:
                x = x + pool.mlp(pool.norm(x))
        return self._visual.head(trunk.head(trunk.fc_norm(x)))

    def embeddings(self, state: State) -> tuple[Tensor, Tensor]:
        trunk = self._trunk
        pooled = trunk.forward_head(trunk.norm(state.tokens.to(trunk.pos_embed.dtype)))
        return self.head(state.readout), self._visual.head(pooled)


class VitTower(Tower):
    """timm's ``VisionTransformer`` alone: its embeddings are the tokens behind the last norm."""

    def __init__(self, name: str, model: Any) -> None:
        _check_vit(name, model)
        self._model = model
        self.prefix = model.num_prefix_tokens
        self.modules = model.blocks
        self.convolution = model.patch_embed.proj
        count, prefix = len(self.modules), self.prefix
        self.blocks = [TimmBlock(m, i, count, prefix, name) for i, m in enumerate(self.modules)]
        self.patch_size = model.patch_embed.patch_size[0]
        self.image_size = model.patch_embed.img_size[0]
        self.settings = {
            "activation": str(self.modules[0].mlp.act),
            "eps": self.modules[0].norm1.eps,
            "heads": self.blocks[0].num_heads,
            "class token has a place": prefix > 0 and not model.no_embed_class,
        }
        for block in self.blocks:
            block.tower = self

    @property
    def embed_dim(self) -> int:
        return self._model.embed_dim

    def first_norm(self, tokens: Tensor) -> Tensor:
        return self._model.norm_pre(tokens)

    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        model, placed = self._model, self._model.pos_embed[0]
        patches = model.patch_embed.norm(patches.to(placed.dtype))
        trained = model.patch_embed.grid_size
        if len(placed) == trained[0] * trained[1]:  # the rules keep a class token's row first
            placed = F.pad(placed, (0, 0, 1, 0))
        position = interpolate(placed, trained, grid, rule)
        tokens = patches + position[1:]
        if self.prefix:
            first = (model.cls_token[0] + position[:1]).expand(len(patches), 1, -1)
            tokens = torch.cat([first, tokens], dim=1)
        return model.norm_pre(tokens)

    def head(self, tokens: Tensor) -> Tensor:
        """The last norm, which timm calls fc_norm where it pools by the mean."""
        model = self._model
        return model.fc_norm(model.norm(tokens.to(model.pos_embed.dtype)))

    def embeddings(self, state: State) -> tuple[Tensor, Tensor]:
        patches, whole = self.head(state.readout)[:, self.prefix :], self.head(state.tokens)
        return patches, whole[:, 0] if self.prefix else whole.mean(1)


def find(name: str, model: Any) -> Tower:
    """The image tower of an open_clip model, or a ViT of timm.

    Raises:
        LabError: a tower that is neither, naming the assumption that fails.
    """
    if type(model).__name__ == "VisionTransformer" and hasattr(model, "patch_embed"):
        return VitTower(name, model)
    visual = getattr(model, "visual", None)
    if hasattr(getattr(visual, "transformer", None), "resblocks"):
        return ClipTower(name, visual)
    trunk = getattr(visual, "trunk", visual)
    if trunk is not visual and type(trunk).__name__ == "VisionTransformer":
        return TimmTower(name, visual)
    raise LabError(
        f"backbone {name}: its image tower is a {type(trunk).__name__}, not open_clip's ViT or "
        "timm's plain one"
    )


def _check_clip(name: str, visual: Any) -> None:
    if getattr(visual, "class_embedding", None) is None:
        raise LabError(f"backbone {name}: its ViT has no class token")
    if getattr(visual, "attn_pool", None) is not None:
        raise LabError(
            f"backbone {name}: attentional pooling; patch tokens have no projection to text"
        )
    for block in visual.transformer.resblocks:
        if not isinstance(block.attn, nn.MultiheadAttention) or block.attn.in_proj_weight is None:
            raise LabError(
                f"backbone {name}: {type(block.attn).__name__} attention; "
                "one packed query-key-value projection is needed"
            )


def _check_timm(name: str, trunk: Any) -> None:
    def refuse(what: str) -> LabError:
        return LabError(f"backbone {name}: its timm ViT {what}")

    if trunk.num_reg_tokens:
        raise refuse(f"has {trunk.num_reg_tokens} register tokens; patches alone are needed")
    if trunk.num_prefix_tokens:
        raise refuse("has a class token; of timm's ViTs those without one are supported")
    if type(trunk.patch_embed).__name__ != "PatchEmbed":
        kind = type(trunk.patch_embed).__name__
        raise refuse(f"embeds patches by a {kind}; one convolution is needed")
    if trunk.pos_embed is None:
        raise refuse("has no learned position embedding")
    if trunk.global_pool not in ("map", "avg"):
        raise refuse(
            f"pools by '{trunk.global_pool}', not map or avg; patch tokens have no projection to "
            "text"
        )
    if trunk.attn_pool is not None and trunk.attn_pool.pos_embed is not None:
        raise refuse("pools with position embeddings; a patch alone has no place there")


def _check_vit(name: str, model: Any) -> None:
    if model.num_reg_tokens or model.num_prefix_tokens > 1:
        what = "has register tokens; a class token and patches are supported"
    elif type(model.patch_embed).__name__ != "PatchEmbed":
        kind = type(model.patch_embed).__name__
        what = f"embeds patches by a {kind}; one convolution is needed"
    elif model.pos_embed is None:
        what = "has no learned position embedding"
    else:
        return
    raise LabError(f"backbone {name}: this ViT of timm {what}")

"""Image towers behind one interface, whichever library built them.

Three kinds: open_clip's own ViT here; timm's vision transformers, alone or inside open_clip's
``TimmModel``, in `sclip_lab.network.timm_tower`. The kind follows from what the module is, not from
its name. All are read by the names of their weights.

Shapes: ``tokens`` = prefix + grid_h * grid_w, where ``prefix`` counts class and register tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.network.block import Block
from sclip_lab.network.context import Grid, State
from sclip_lab.network.linear import Linear
from sclip_lab.network.position_embedding import interpolate


class Tower(ABC):
    """An image tower, as the backbone sees it.

    Attributes:
        prefix: number of tokens before the patches.
        has_class_token: whether token 0 is a class token.
        blocks: in order.
        patch_size: side of a patch in pixels.
        image_size: side of the images it was trained on, in pixels.
    """

    prefix: int
    has_class_token: bool
    blocks: Sequence[Block]
    patch_size: int
    image_size: int

    def blocks_on(self, grid: Grid) -> Sequence[Block]:
        """The blocks for patches of a grid, which matters for rotary and relative position
        embeddings; other towers return ``blocks``."""
        return self.blocks

    @property
    @abstractmethod
    def embed_dim(self) -> int: ...

    @abstractmethod
    def patches(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) of whole patches -> (batch, grid_h * grid_w, width)."""

    @abstractmethod
    def first_norm(self, tokens: Tensor) -> Tensor:
        """The norm before the first block: (batch, tokens, width) -> the same shape."""

    @abstractmethod
    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        """Add position embedding, by a rule of `sclip_lab.network.position_embedding`, class token
        and register tokens, and apply the first norm: (batch, grid_h * grid_w, width) from
        `patches` -> (batch, tokens, width), in the precision of the norms."""

    @abstractmethod
    def head(self, tokens: Tensor) -> Tensor:
        """Map each token by itself into the space of texts: (..., width) -> (..., embed_dim)."""

    @abstractmethod
    def embeddings(self, state: State, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return patch embeddings (batch, patches, embed_dim) of the readout stream, and the image
        embedding (batch, embed_dim) of the trained stream."""


class ClipTower(Tower):
    """open_clip's ``VisionTransformer``, which has a class token.

    Its image embedding is the class token (``pool_type: tok``), the mean of the patches (``avg``,
    CLIPA), or attention of learned queries to all tokens (CoCa).
    """

    prefix = 1
    has_class_token = True

    def __init__(self, name: str, visual: Any) -> None:
        _check_clip(name, visual)
        self._visual = visual
        self._project = Linear()
        modules = visual.transformer.resblocks
        self.blocks = [Block(m, i, len(modules), 1, name) for i, m in enumerate(modules)]
        self.patch_size = visual.patch_size[0]
        self.image_size = visual.image_size[0]
        for block in self.blocks:
            block.tower = self

    @property
    def embed_dim(self) -> int:
        return self._visual.output_dim

    def patches(self, images: Tensor) -> Tensor:
        convolution = self._visual.conv1
        return convolution(images.to(convolution.weight.dtype)).flatten(2).transpose(1, 2)

    def first_norm(self, tokens: Tensor) -> Tensor:
        return self._visual.ln_pre(tokens)

    def embed(self, patches: Tensor, grid: Grid, rule: str) -> Tensor:
        visual = self._visual
        # Not ln_pre's precision: CLIPA has no ln_pre.
        patches = patches.to(visual.positional_embedding.dtype)
        class_token = visual.class_embedding.expand(len(patches), 1, -1).to(patches.dtype)
        position = interpolate(visual.positional_embedding, visual.grid_size, grid, rule)
        tokens = torch.cat([class_token, patches], dim=1) + position.to(patches.dtype)
        return visual.ln_pre(tokens)

    def head(self, tokens: Tensor) -> Tensor:
        """Apply last norm and projection. With attention pooling, each token is pooled as if it
        were the only one: the softmax over one key is 1, so query and key do not matter."""
        visual = self._visual
        tokens = tokens.to(visual.ln_post.weight.dtype)
        if visual.attn_pool is None:
            return self._projected(visual.ln_post(tokens))
        contrastive = visual.attn_pool_contrastive
        if contrastive is None:
            return self._projected(visual.ln_post(_one_key(visual.attn_pool, tokens)))
        tokens = visual.ln_post(tokens)
        if visual.attn_pool_type == "cascade":
            tokens = _one_key(visual.attn_pool, tokens)
        return self._projected(_one_key(contrastive, tokens))

    def _projected(self, embedded: Tensor) -> Tensor:
        projection = self._visual.proj
        return embedded if projection is None else self._project(embedded, projection.T, None)

    def embeddings(self, state: State, grid: Grid) -> tuple[Tensor, Tensor]:
        visual = self._visual
        if visual.attn_pool is None and visual.pool_type == "tok":
            # One product for both keeps the bits that published parity was measured with.
            embedded = self.head(torch.cat([state.tokens[:, :1], state.readout[:, 1:]], dim=1))
            return embedded[:, 1:], embedded[:, 0]
        pooled, _ = visual._pool(state.tokens.to(visual.ln_post.weight.dtype))
        return self.head(state.readout[:, 1:]), self._projected(pooled.flatten(1))


def _one_key(pooler: Any, tokens: Tensor) -> Tensor:
    """open_clip's ``AttentionalPooler`` of each token alone: (..., width) -> (..., embed_dim)."""
    attention = pooler.attn
    width = attention.embed_dim
    weight = attention.in_proj_weight
    value = attention.v_proj_weight if weight is None else weight[2 * width :]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    return attention.out_proj(nn.functional.linear(pooler.ln_k(tokens), value, bias))


def find(name: str, model: Any) -> Tower:
    """Return the image tower of an open_clip model, or of a vision transformer of timm.

    Raises:
        LabError: a tower of neither kind, naming the part that is not supported.
    """
    # Not at the top, because timm_tower imports this module.
    from sclip_lab.network.timm_tower import TimmTower

    if hasattr(model, "forward_features"):
        return TimmTower(name, model)
    visual = getattr(model, "visual", None)
    if hasattr(getattr(visual, "transformer", None), "resblocks"):
        return ClipTower(name, visual)
    trunk = getattr(visual, "trunk", None)
    if visual is not None and trunk is not None:
        return TimmTower(name, trunk, visual.head)
    if hasattr(getattr(model, "transformer", None), "resblocks"):
        raise LabError(
            f"backbone {name}: a tower alone; give the whole model that has it as .visual"
        )
    raise LabError(
        f"backbone {name}: its image tower is a {type(visual or model).__name__}, not open_clip's "
        "ViT or timm's; a model of transformers goes by state_dict=model.state_dict() and the name "
        "of a network"
    )


def _check_clip(name: str, visual: Any) -> None:
    if len(set(visual.patch_size)) > 1:
        raise LabError(f"backbone {name}: its patches of {tuple(visual.patch_size)} are not square")
    if getattr(visual, "class_embedding", None) is None:
        raise LabError(f"backbone {name}: its ViT has no class token")
    if visual.attn_pool is None and visual.pool_type not in ("tok", "avg"):
        raise LabError(
            f"backbone {name}: its pool_type {visual.pool_type} gives no image embedding"
        )
    for block in visual.transformer.resblocks:
        if not isinstance(block.attn, nn.MultiheadAttention) or block.attn.in_proj_weight is None:
            raise LabError(
                f"backbone {name}: {type(block.attn).__name__} attention; "
                "one packed query-key-value projection is needed"
            )

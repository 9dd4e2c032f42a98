"""What a variant's layers look like: token streams, attention maps, the same windows moved.

Everything that does not depend on the variant is kept with the block's input, so that variants
that share a layer measure it once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from sclip_lab.diagnostics.attention import patch_rows
from sclip_lab.diagnostics.shift import SHIFT, moved
from sclip_lab.network.context import BlockInput
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.encoded import Encoded


@dataclass(frozen=True, eq=False)
class Layers:
    """The blocks of a network as one variant ran them.

    Layer ``l`` is the 0-based block; its tokens are what enters it.

    Attributes:
        encoded: one variant on a batch of windows.
        position_embedding: rule for grids of another size, for the moved windows.
        memo: what several measures of the variant share.
    """

    encoded: Encoded
    position_embedding: str | None = None
    memo: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def depth(self) -> int:
        return len(self.encoded.history)

    @cached_property
    def rewritten(self) -> tuple[int, ...]:
        """Indices of the blocks that the variant rewrites, in order."""
        return tuple(sorted(self.encoded.variant.layers(self.depth)))

    @property
    def last(self) -> int:
        """The last of them: where `State.attention` comes from."""
        return self.rewritten[-1]

    def entered(self, layer: int) -> BlockInput:
        return self.encoded.history[layer]

    def tokens(self, layer: int) -> Tensor:
        """(batch, tokens, width) that enter a block."""
        return self.entered(layer).tokens

    @property
    def stream(self) -> Tensor:
        """(batch, tokens, width) behind the last block, the stream that is read out."""
        return self.encoded.state.readout

    def patches(self, tokens: Tensor) -> Tensor:
        """(batch, patches, width) float32 of (batch, tokens, width)."""
        count = self.encoded.grid[0] * self.encoded.grid[1]
        return tokens[:, tokens.shape[1] - count :].float()

    def attention(self, layer: int) -> Tensor | None:
        """(batch, heads, tokens or patches, same) weights of a block: the network's own where the
        variant leaves it alone, the variant's in its last rewritten one; None in rewritten ones
        before, whose weights are not kept, in blocks that attend within windows, and for a method
        without a single map."""
        if layer == self.last:
            return self.encoded.state.attention
        entered = self.entered(layer)
        has_map = layer not in self.rewritten and entered.block.has_map
        return entered.attention() if has_map else None

    def rows(self, layer: int) -> Tensor | None:
        """(batch, heads, patches, patches): `attention` among patches, rows that sum to 1."""
        weights = self.attention(layer)
        if weights is None:
            return None
        grid = self.encoded.grid
        if layer in self.rewritten:
            return patch_rows(weights, grid)
        return self.entered(layer).once("patch rows", lambda: patch_rows(weights, grid))

    def untouched(self) -> Tensor:
        """(batch, tokens, width) behind the last block of the network as it was trained."""
        entered = self.entered(self.rewritten[0])
        blocks = self.encoded.backbone.blocks_on(self.encoded.grid)
        for block in blocks[entered.block.index + 1 :]:
            entered = entered.once("next", partial(BlockInput, block, partial(_plain, entered)))
        return _plain(entered)

    def moved_features(self) -> Tensor:
        """(batch, grid_h, grid_w, embed_dim) features of the windows moved by `SHIFT` patches, by
        the same variant."""
        encoded, first = self.encoded, self.rewritten[0]
        chain = self.entered(0).once(("moved", self.position_embedding), self._moved_chain)
        scene = encoded.scene.of(self._moved_images)
        if encoded.scene.labels is not None:
            scene = replace(scene, labels=encoded.scene.labels.moved(SHIFT))
        [(_, state, _)] = tree.leaves(
            encoded.backbone.blocks_on(encoded.grid),
            chain[first],
            encoded.grid,
            [encoded.variant],
            history=tuple(chain[:first]),
            scene=scene,
        )
        return encoded.backbone.project(state, encoded.grid)[0]

    @property
    def _moved_images(self) -> Tensor:
        return moved(self.encoded.images, self.encoded.backbone.patch_size, SHIFT)

    def _moved_chain(self) -> list[BlockInput]:
        """What enters each block of the untouched network on the moved windows, when asked."""
        backbone = self.encoded.backbone
        images = self._moved_images
        blocks = backbone.blocks_on(backbone.grid(*images.shape[-2:]))
        embed = partial(backbone.embed, images, self.position_embedding)
        chain = [BlockInput(blocks[0], embed)]
        for block in blocks[1:]:
            chain.append(BlockInput(block, partial(_plain, chain[-1])))
        return chain


def _plain(entered: BlockInput) -> Tensor:
    with torch.inference_mode():
        return entered.once("plain", lambda: entered.block.plain(entered.tokens))

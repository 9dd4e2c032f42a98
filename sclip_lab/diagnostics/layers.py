"""What a variant's layers look like: token streams, attention maps, the same windows moved.

Everything that does not depend on the variant is kept with the block's input, so that variants
that share a layer measure it once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import Tensor

from sclip_lab.diagnostics.attention import patch_rows
from sclip_lab.diagnostics.shift import moved
from sclip_lab.network.context import BlockInput
from sclip_lab.segmentation.encoded import Encoded, as_trained


@dataclass(frozen=True, eq=False)
class Layers:
    """The blocks of a network as one variant ran them.

    Layer ``l`` is the 0-based block; its tokens are what enters it. ``position_embedding`` is the
    rule for grids of another size, for the moved windows.
    """

    encoded: Encoded
    position_embedding: str | None = None

    @property
    def depth(self) -> int:
        return len(self.encoded.history)

    @cached_property
    def rewritten(self) -> list[int]:
        """Indices of the blocks whose attention the variant rewrites, in order."""
        return self.encoded.variant.layers(self.depth)

    @property
    def last(self) -> int:
        """The last rewritten block, where `State.attention` comes from."""
        return self.rewritten[-1]

    def entered(self, layer: int) -> BlockInput:
        return self.encoded.history[layer]

    @property
    def stream(self) -> Tensor:
        """(batch, tokens, width) behind the last block, the stream that is read out."""
        return self.encoded.state.readout

    def patches(self, tokens: Tensor) -> Tensor:
        """(batch, patches, width) float32 of (batch, tokens, width)."""
        return tokens[:, self.encoded.backbone.blocks[0].prefix :].float()

    def attention(self, layer: int) -> Tensor | None:
        """(batch, heads, tokens or patches, same) weights of a block.

        A block that the variant leaves alone has the network's own weights, the last rewritten
        block the variant's. None in earlier rewritten blocks, whose weights are not kept, in blocks
        that attend within windows, and for a method without a single map.
        """
        if layer == self.last:
            return self.encoded.state.attention
        entered = self.entered(layer)
        has_map = layer not in self.rewritten and entered.block.has_map
        return entered.attention() if has_map else None

    def rows(self, layer: int) -> Tensor | None:
        """(batch, heads, patches, patches): `attention` among patches, rows that sum to 1."""
        weights, grid = self.attention(layer), self.encoded.grid
        if weights is None:
            return None
        if layer in self.rewritten:
            return patch_rows(weights, self.encoded.state.grid or grid)
        return self.entered(layer).once("patch rows", lambda: patch_rows(weights, grid))

    def untouched(self) -> Tensor:
        """(batch, tokens, width) behind the last block of the network as it was trained."""
        first = self.encoded.variant.first(self.depth)
        entered = self.entered(first)
        following = self.encoded.backbone.blocks_on(self.encoded.grid)[first + 1 :]
        # Variants that share this input share the rest of the network as well.
        last = entered.once("trained", lambda: as_trained(entered, following)[-1])
        return last.as_trained()

    @cached_property
    def moved_features(self) -> Tensor:
        """(batch, grid_h, grid_w, embed_dim) float32 of the windows moved by one patch."""
        encoded, backbone = self.encoded, self.encoded.backbone
        images = moved(encoded.images, backbone.patch_size)

        def inputs() -> list[BlockInput]:
            embed = partial(backbone.embed, images, self.position_embedding)
            first, *following = backbone.blocks_on(encoded.grid)
            return as_trained(BlockInput(first, embed), following)

        scene = encoded.scene.of(images)
        if encoded.scene.labels is not None:
            scene = replace(scene, labels=encoded.scene.labels.moved((1, 1)))
        history = tuple(self.entered(0).once(("moved", self.position_embedding), inputs))
        around = replace(encoded, images=images, history=history, scene=scene)
        return around.again().patches.float()

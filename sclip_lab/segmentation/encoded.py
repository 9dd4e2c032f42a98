"""Windows behind the network, as one variant sees them: everything that a readout may read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.core.timings import Timings
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.block import Block
from sclip_lab.network.context import BlockInput, Feedback, Grid, State
from sclip_lab.network.scene import ALONE, Scene, alone
from sclip_lab.segmentation import tree


@dataclass(frozen=True, eq=False)
class Encoded:
    """One variant on one batch of windows.

    Attributes:
        backbone, variant: which network, with which attention.
        images: (windows, 3, height, width), normalised.
        grid: (grid_h, grid_w) of each window, as it entered.
        state: behind the last block.
        history: the input of each block, in order.
        scene: the photos of the windows.
    """

    backbone: Backbone
    variant: Variant
    images: Tensor
    grid: Grid
    state: State
    history: tuple[BlockInput, ...]
    scene: Scene = ALONE

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor]:
        return self.backbone.project(self.state, self.state.grid or self.grid)

    @property
    def patches(self) -> Tensor:
        """(windows, grid_h, grid_w, embed_dim) patch embeddings, not normalised.

        The grid is ``state.grid`` if the variant has another than the input.
        """
        return self._projected[0]

    @property
    def class_embedding(self) -> Tensor:
        """(windows, embed_dim), not normalised."""
        return self._projected[1]

    @cached_property
    def whole_class_embedding(self) -> Tensor:
        """(windows, embed_dim) class embedding of each window's photo, encoded as one window."""
        embeddings = self.class_embedding.clone()
        for photo in self.scene.photos:
            if len(photo) == 1:
                continue
            whole = self.images.new_zeros(3, *photo.size)
            for window, (y, x) in zip(self.images[photo.windows], photo.corners, strict=True):
                top, left = max(y, 0), max(x, 0)  # what lies outside of the photo is padding
                place = whole[:, top : y + window.shape[1], left : x + window.shape[2]]
                inside = window[:, top - y :, left - x :]
                place.copy_(inside[:, : place.shape[1], : place.shape[2]])
            embeddings[photo.windows] = self.of(whole[None]).class_embedding
        return embeddings

    def of(self, images: Tensor) -> Encoded:
        """The same variant on other images, (batch, 3, height, width), each a photo of its own."""
        around = self.scene.of(images)
        [(_, encoded)] = encode(self.backbone, images, [self.variant], scene=around)
        return encoded

    def again(self, feedback: Feedback | None = None) -> Encoded:
        """Run the same windows again from the first rewritten block on, with a feedback for the
        scores of every rewritten block."""
        first = self.variant.first(self.backbone.depth)
        [(_, state, history)] = tree.leaves(
            self.backbone.blocks_on(self.grid),
            self.history[first],
            self.grid,
            [self.variant],
            history=self.history[:first],
            feedback=feedback,
            scene=self.scene,
        )
        return replace(self, state=state, history=history)

    def tokens_only(self, history: bool) -> Encoded:
        """Return this encoding without images and cached values. Without ``history`` the blocks'
        inputs are dropped too, and reading them is an error.
        """
        entered = tuple(
            e.fresh() if history else BlockInput(e.block, _not_kept) for e in self.history
        )
        return replace(self, images=self.images[:0], history=entered)

    @classmethod
    def joined(cls, chunks: Sequence[Encoded], images: Tensor, scene: Scene) -> Encoded:
        """Join what one variant made of several chunks, in order, to all windows of a scene."""
        first, states = chunks[0], [chunk.state for chunk in chunks]
        state = first.state
        for name in ("tokens", "dense", "attention"):
            if getattr(state, name) is not None:
                whole: Any = torch.cat([getattr(of_chunk, name) for of_chunk in states])
                state = replace(state, **{name: whole})

        def whole_of(entered: Sequence[BlockInput]) -> BlockInput:
            return BlockInput(entered[0].block, lambda: torch.cat([e.tokens for e in entered]))

        history = tuple(map(whole_of, zip(*(chunk.history for chunk in chunks), strict=True)))
        return replace(first, images=images, state=state, history=history, scene=scene)

    def part(self, windows: slice) -> Encoded:
        """Some of the windows; values cached for the blocks' inputs are not copied."""
        images = self.images[windows]
        if len(images) == len(self.images):
            return self
        history = tree.parts_of(self.history, windows)
        state, scene = tree.part_of(self.state, windows, windows), self.scene.part(windows)
        return replace(self, images=images, state=state, history=history, scene=scene)


@torch.inference_mode()
def encode(
    backbone: Backbone,
    images: Tensor,
    variants: Sequence[Variant],
    position_embedding: str | None = None,
    timings: Timings | None = None,
    trunk: tuple[int, Tensor] | None = None,
    scene: Scene | None = None,
) -> Iterator[tuple[int, Encoded]]:
    """Run all variants on one batch of windows; equal work is done once.

    Args:
        images: (windows, 3, height, width), normalised.
        position_embedding: rule for grids of another size; by default the backbone's.
        timings: takes the seconds of each branch, see `tree.leaves`.
        trunk: index of a block before which no variant changes anything, and that block's input,
            (windows, tokens, width). Earlier blocks then run only for variants that read them.
        scene: the photos of the windows; by default each window is a photo.

    Yields:
        (index into ``variants``, what that variant made), in the tree's order.
    """
    timings, scene = timings or Timings(), scene or ALONE
    size = images.shape[-2], images.shape[-1]
    grid = backbone.grid(*size)
    blocks = backbone.blocks_on(grid)
    if scene.placements == ():
        scene = replace(scene, placements=alone(len(images), size, backbone.patch_size))
    before: tuple[BlockInput, ...] = ()
    if trunk is None:
        with timings.measure("trunk"):
            tokens = backbone.embed(images, position_embedding)
    else:
        level, tokens = trunk[0], trunk[1].to(backbone.device)
        embed = partial(backbone.embed, images, position_embedding)
        before = tuple(as_trained(BlockInput(blocks[0], embed), blocks[1:])[:level])
    leaves = tree.leaves(blocks, tokens, grid, variants, timings, before, scene=scene)
    for index, state, history in leaves:
        yield index, Encoded(backbone, variants[index], images, grid, state, history, scene)
        del state, history  # or they stay in memory while the next variant runs


def as_trained(entered: BlockInput, following: Sequence[Block]) -> list[BlockInput]:
    """``entered``, and what enters each following block if all run as trained.

    Nothing is computed before it is read.
    """
    inputs = [entered]
    for block in following:
        inputs.append(BlockInput(block, inputs[-1].as_trained))
    return inputs


def _not_kept() -> Tensor:
    raise LabError(
        "what entered the blocks is not kept for all windows of a photo; a readout that looks at "
        'it is declared with sclip_lab.core.functions.uses("photo", "history"), a refinement with '
        'uses("history")'
    )

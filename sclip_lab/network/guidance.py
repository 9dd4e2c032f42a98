"""A second frozen image network, whose features guide attention or propagation.

DINO, DINOv2, DINOv3, SAM's encoder or another vision transformer that timm builds, by timm's name
or by the name of the authors' torch.hub entry; weights from timm, from a local file, or random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.identity import digest
from sclip_lab.core.values import check_arguments, within
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import Grid, Placement
from sclip_lab.network.vit import HUB_NAMES, load_vit

TIMMS_RULE = "bicubic_antialias"  # how timm resizes position embeddings


@dataclass(eq=False)
class Guide:
    """A second network.

    Attributes:
        network: a vision transformer of timm, frozen.
        layer: the block whose output is taken, -1 the last.
        facet: ``token`` for the block's output behind the last norm, or ``query``, ``key`` or
            ``value`` of its attention, before a rotary embedding turns them.
        scope: ``windows``: each window is one image; ``photo``: the whole photo is one image, and
            each window gets its part of those features.
        scale: factor on the sides of images before the network sees them.
        weights: where the weights of ``network`` are from.
    """

    network: Backbone
    layer: int = -1
    facet: str = "token"
    scope: str = "windows"
    scale: float = 1.0
    weights: str = ""

    @property
    def description(self) -> dict[str, Any]:
        """What identifies the guide besides the values of its weights."""
        names = ("weights", "layer", "facet", "scope", "scale")
        return {"name": self.network.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def key(self) -> str:
        """Digest of every weight and of everything else that changes the features."""
        return digest([self.network.key, self.layer, self.facet, self.scope, self.scale])

    def grid(self, height: int, width: int) -> Grid:
        """(grid_h, grid_w) of the features of an image of so many pixels."""
        sides = (side * self.scale / self.network.patch_size for side in (height, width))
        grid_h, grid_w = (max(1, round(side)) for side in sides)
        return grid_h, grid_w

    def input(self, images: Tensor, backbone: Backbone) -> Tensor:
        """Turn images that are normalised for the backbone into this network's input. They get this
        network's statistics, and their sides are scaled and rounded to whole patches (bilinear)."""
        images = self.network.normalise(backbone.pixels(images))
        size = [cells * self.network.patch_size for cells in self.grid(*images.shape[-2:])]
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return images

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) from `input` -> (batch, channels, grid_h, grid_w) float32."""
        grid = self.network.grid(*images.shape[-2:])
        blocks, tokens = self.network.blocks_on(grid), self.network.embed(images, TIMMS_RULE)
        for block in blocks[: self.layer % len(blocks)]:
            tokens = block.plain(tokens)
        block = blocks[self.layer]
        if self.facet == "token":
            tower: Any = self.network.tower  # timm's
            features = tower.normed(block.plain(tokens), grid)
        else:
            rotated = self.facet in ("query", "key")
            name = f"{self.facet}_before_rotation" if rotated else self.facet
            features = block.project(block.norm(tokens), name).transpose(1, 2).flatten(2)
        return features[:, block.prefix :].unflatten(1, grid).permute(0, 3, 1, 2).float()

    def of_windows(self, windows: Tensor, backbone: Backbone) -> Tensor:
        """Features of windows as images of their own: (windows, channels, grid_h, grid_w)."""
        return self.features(self.input(windows, backbone))

    def of_photo(
        self,
        photo: Tensor,
        placement: Placement,
        size: tuple[int, int],
        backbone: Backbone,
        whole: Tensor | None = None,
    ) -> Tensor:
        """Compute features of a whole photo, and cut out what belongs to each window.

        Args:
            photo: (3, height, width), normalised for the backbone.
            placement: of the photo's windows, or some of them, each of ``size`` (height, width).
            whole: features that `of_windows` gave for the photo as one window; None computes them.

        Returns:
            (windows, channels, grid_h, grid_w), sampled (bilinear) at as many places as the
            network would have patches in a window.
        """
        whole = self.of_windows(photo[None], backbone) if whole is None else whole
        grid = self.grid(*size)
        places = []
        for top, left in placement.corners:
            y = top + size[0] * (torch.arange(grid[0]) + 0.5) / grid[0]
            x = left + size[1] * (torch.arange(grid[1]) + 0.5) / grid[1]
            y, x = 2 * y / photo.shape[-2] - 1, 2 * x / photo.shape[-1] - 1
            columns, rows = torch.meshgrid(x, y, indexing="xy")
            places.append(torch.stack([columns, rows], dim=-1))
        where = torch.stack(places).to(whole)
        return F.grid_sample(
            whole.expand(len(where), -1, -1, -1),
            where,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )


def load_guidance(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    seed: int = 0,
    device: str = "auto",
    layer: int = -1,
    facet: Literal["token", "query", "key", "value"] = "token",
    scope: Literal["windows", "photo"] = "windows",
    scale: float = 1.0,
    options: Mapping[str, Any] | None = None,
) -> Guide:
    """Load a second network, frozen.

    Args:
        name: of a vision transformer of timm, with a tag of its weights or without
            (``vit_base_patch16_224.dino``), or a key of ``HUB_NAMES`` (``dino_vitb16``).
        pretrained: let timm fetch its weights, unless there is a checkpoint.
        checkpoint, weights, seed, device, options: as in `sclip_lab.network.vit.load_vit`.
        layer, facet, scope, scale: see `Guide`.

    Raises:
        LabError: unknown name (did you mean), a network that is no vision transformer, or weights
            that do not fit or are not finite.
    """
    choices = {"facet": facet, "scope": scope, "scale": scale}
    check_arguments(load_guidance, choices, "guidance.")
    within("guidance.scale", scale, 0, 1e6, above=True)
    fetched = pretrained and checkpoint is None
    timm_name = HUB_NAMES.get(name, name)
    tag = timm_name.partition(".")[2] if fetched else None
    try:
        network = load_vit(
            name, tag, checkpoint=checkpoint, weights=weights, seed=seed, device=device,
            options=options, role="guidance",
        )  # fmt: skip
    except LabError as error:
        raise LabError(re.sub("^backbone ", "guidance ", str(error))) from error
    for block in network.blocks:
        block.save_memory()  # it runs beside another network
    if not -network.depth <= layer < network.depth:
        raise LabError(f"guidance.layer {layer}: {name} has {network.depth} blocks")
    source = f"timm {timm_name}" if fetched else f"random, seed {seed}"
    return Guide(network, layer, facet, scope, scale, str(checkpoint) if checkpoint else source)

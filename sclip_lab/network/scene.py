"""The photos that the windows of a batch are cut from, and a second network's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.truth import PatchLabels

Grid = tuple[int, int]
MISSING = (
    "needs guidance, features of a second network: guidance=dino_vitb16, or "
    "guidance=timm guidance.name=<a ViT of timm>"
)


def positions(grid: Grid) -> Tensor:
    """(patches, 2) int64 row and column of each patch, row-major."""
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))


def squared_distances(grid: Grid) -> Tensor:
    """(patches, patches) int64 squared distances, in patches."""
    position = positions(grid)
    return (position[:, None] - position[None]).square().sum(-1)


@dataclass(frozen=True)
class Placement:
    """Where the windows of one photo lie.

    Attributes:
        windows: the consecutive windows of the batch that are cut from this photo.
        corners: (row, column) of each window's first pixel in the resized photo. With padding it
            can lie outside of the photo.
        size: (height, width) of the resized photo in pixels.
        patch: side of a patch in pixels.
    """

    windows: slice
    corners: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    patch: int = 1

    def __len__(self) -> int:
        return len(self.corners)

    def first_pixels(self, grid: Grid) -> Tensor:
        """(windows * patches, 2) int64: row and column of each patch's first pixel in the photo."""
        return (torch.tensor(self.corners)[:, None] + self.patch * positions(grid)).flatten(0, 1)

    def pixel_numbers(self, grid: Grid) -> Tensor:
        """(windows * patches,) int64: index of each patch's first pixel in the flattened photo;
        0 for patches in the padding."""
        pixels, size = self.first_pixels(grid), torch.tensor(self.size)
        inside = ((pixels >= 0) & (pixels < size)).all(dim=1)
        return torch.where(inside, pixels @ torch.tensor([self.size[1], 1]), 0)

    def centres(self, grid: Grid) -> Tensor:
        """(windows * patches, 2) float32: row and column of each patch's centre in the photo."""
        return self.first_pixels(grid).float() + self.patch / 2


class Guidance:
    """Features of a second network for each window of a batch, computed on first use.

    Args:
        compute: () -> (windows, channels, grid_h, grid_w), on the second network's grid.
        look: (images, 3, height, width) -> features of other images; None if not available.
    """

    def __init__(
        self, compute: Callable[[], Tensor], look: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._compute = compute
        self._look = look
        self._on: dict[Grid, Tensor] = {}

    @cached_property
    def features(self) -> Tensor:
        """(windows, channels, grid_h, grid_w)."""
        return self._compute()

    def on(self, grid: Grid) -> Tensor:
        """Resize the features to ``grid`` (bilinear, align_corners=False) and divide them by their
        norm: (windows, patches, channels) float32."""
        if grid not in self._on:
            features = self.features.float()
            if tuple(features.shape[-2:]) != tuple(grid):
                features = F.interpolate(features, grid, mode="bilinear", align_corners=False)
            self._on[grid] = F.normalize(features.flatten(2).mT, dim=-1)
        return self._on[grid]

    def part(self, windows: slice) -> Guidance:
        """Guidance for some of the windows."""
        return Guidance(lambda: self.features[windows], self._look)

    def of(self, images: Tensor) -> Guidance | None:
        """Guidance for other images, (batch, 3, height, width), each as one window."""
        look = self._look
        return None if look is None else Guidance(lambda: look(images), look)


def alone(windows: int, size: tuple[int, int], patch: int = 1) -> tuple[Placement, ...]:
    """Return placements of windows that are whole photos of ``size`` = (height, width)."""
    return tuple(Placement(slice(i, i + 1), ((0, 0),), size, patch) for i in range(windows))


@dataclass(frozen=True)
class Scene:
    """What all variants share on one batch of windows.

    Attributes:
        placements: the photos in the order of their windows; empty: each window is a photo of its
            own; None: only some of a photo's windows are here.
        guidance: features of a second network, or None without one.
        labels: ground truth on the patch grid, or None where nobody knows it.
    """

    placements: tuple[Placement, ...] | None = ()
    guidance: Guidance | None = field(default=None, compare=False)
    labels: PatchLabels | None = field(default=None, compare=False)

    @property
    def photos(self) -> tuple[Placement, ...]:
        """Tell which windows are of one photo, and where they lie in it.

        Raises:
            LabError: the photo is worked on a few windows at a time.
        """
        if self.placements is None:
            raise LabError(
                "only some of the photo's windows are here; a function that looks at all of them "
                'is declared with sclip_lab.core.functions.uses("photo")'
            )
        return self.placements

    def part(self, windows: slice) -> Scene:
        """Return the scene of some windows: those of one photo, or of several whole ones."""
        windows = slice(windows.start or 0, windows.stop)
        photos = self.placements
        if photos is not None:
            start, stop = windows.start, windows.stop
            photos = tuple(
                replace(p, windows=slice(p.windows.start - start, p.windows.stop - start))
                for p in photos
                if start <= p.windows.start and p.windows.stop <= stop
            )
        guidance = None if self.guidance is None else self.guidance.part(windows)
        return Scene(photos, guidance, None if self.labels is None else self.labels.part(windows))

    def of(self, images: Tensor) -> Scene:
        """Return the scene of other images, (batch, 3, height, width). Each is a photo of its own,
        with its guidance."""
        return Scene(guidance=None if self.guidance is None else self.guidance.of(images))

    def need_guidance(self, who: str) -> Guidance:
        """Return the guidance, or refuse.

        Raises:
            LabError: there is none; the message says that ``who`` needs it.
        """
        if self.guidance is None:
            raise LabError(f"{who} {MISSING}")
        return self.guidance


ALONE = Scene()

"""Ground truth on the patch grid, for variants that declare ``uses("labels")``: oracles.

An oracle's number says what a network could do if it knew the answer. It is never a method's score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

UNKNOWN = -1


def majority(counts: Tensor) -> Tensor:
    """The class with most pixels, or the lowest of several such ids: (..., classes) -> (...) int64,
    -1 (unknown) if there is no pixel."""
    return torch.where(counts.sum(-1) > 0, counts.argmax(-1), UNKNOWN)


class PatchLabels:
    """The classes in each patch of each window. They are counted on first use.

    Args:
        count: () -> (windows, grid_h, grid_w, classes) pixels of each class in each patch; pixels
            that are void in the mask count for no class.
    """

    def __init__(self, count: Callable[[], Tensor]) -> None:
        self._count = count

    @classmethod
    def of(cls, majority: Tensor) -> PatchLabels:
        """Make labels of patches that hold one class each: (windows, grid_h, grid_w), -1 for
        unknown."""

        def count() -> Tensor:
            labelled = majority != UNKNOWN
            pixels = F.one_hot(majority.clamp_min(0), max(1, int(majority.max()) + 1))
            return pixels * labelled[..., None]

        return cls(count)

    @cached_property
    def counts(self) -> Int[Tensor, "windows grid_h grid_w classes"]:
        """Pixels of each class in each patch."""
        return self._count()

    @property
    def grid(self) -> tuple[int, int]:
        """(grid_h, grid_w) of a window."""
        return self.counts.shape[1], self.counts.shape[2]

    @cached_property
    def shares(self) -> Float[Tensor, "windows patches classes"]:
        """Each class's share of a patch's labelled pixels. All are 0 where no pixel is labelled."""
        counts = self.counts.flatten(1, 2).float()
        return counts / counts.sum(-1, keepdim=True).clamp_min(1)

    @cached_property
    def majority(self) -> Int[Tensor, "windows patches"]:
        """Each patch's class, as the function `majority` of this module gives it."""
        return majority(self.counts.flatten(1, 2))

    def part(self, windows: slice) -> PatchLabels:
        """Return the labels of some of the windows."""
        return PatchLabels(lambda: self.counts[windows])

    def moved(self, shift: tuple[int, int]) -> PatchLabels:
        """Return the labels of windows whose pictures moved some patches down and right. Patches
        that come into sight are unknown."""
        down, right = shift
        grid_h, grid_w = self.grid

        def count() -> Tensor:
            return F.pad(self.counts, (0, 0, right, 0, down, 0))[:, :grid_h, :grid_w]

        return PatchLabels(count)

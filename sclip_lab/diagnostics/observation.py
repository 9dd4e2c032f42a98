"""What a diagnostic looks at: one variant on a photo's windows, and the variant's results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.attention import patch_rows
from sclip_lab.diagnostics.layers import Layers
from sclip_lab.segmentation.windows import Plan

VOID = -1


@dataclass(frozen=True, eq=False)
class SegmentedPhoto:
    """A whole photo, segmented.

    Attributes:
        prediction: (height, width) class ids.
        mask: the same shape; ``ignore_index`` where a pixel does not count.
        plan: the windows that it was cut into.
        ignore_index: of the mask.
    """

    prediction: npt.NDArray[np.integer]
    mask: npt.NDArray[np.integer]
    plan: Plan
    ignore_index: int


@dataclass(frozen=True, eq=False)
class Observation:
    """One variant on a batch of windows; ``patches`` = grid_h * grid_w.

    Attributes:
        attention: (batch, heads, patches, patches) weights that multiplied the values, or the
            same with the class token as first row and column; None where a method has no map.
        patches: (batch, grid_h, grid_w, embed_dim) patch embeddings, not normalised.
        class_embedding: (batch, embed_dim), not normalised.
        labels: (batch, grid_h, grid_w) integers, the majority label of each patch, -1 for void.
        grid: (grid_h, grid_w).
        patch_size: side of a patch in pixels.
        similarity: (batch, grid_h, grid_w, classes) patch logits, the largest of each class's
            names; None where there are no texts.
        layers: the blocks of the network; None where only what they put out is known.
        photo: the whole photo; None where windows belong to no photo, or to several.
    """

    attention: Float[Tensor, "batch heads rows rows"] | None
    patches: Float[Tensor, "batch grid_h grid_w embed_dim"]
    class_embedding: Float[Tensor, "batch embed_dim"]
    labels: Int[Tensor, "batch grid_h grid_w"]
    grid: tuple[int, int]
    patch_size: int
    similarity: Float[Tensor, "batch grid_h grid_w classes"] | None = None
    layers: Layers | None = None
    photo: SegmentedPhoto | None = None

    @cached_property
    def weights(self) -> Tensor:
        """(batch, heads, patches, patches) float32: the class token dropped, rows sum to 1.

        A row that saw nothing but the class token is all zeros.
        """
        if self.attention is None:
            raise LabError("this variant has no single attention map, which `weights` are made of")
        return patch_rows(self.attention, self.grid)

    @cached_property
    def mean_weights(self) -> Tensor:
        """(batch, patches, patches) `weights`, averaged over heads."""
        return self.weights.mean(1)

    @cached_property
    def features(self) -> Tensor:
        """(batch, patches, embed_dim) float32 of unit length."""
        return F.normalize(self.flat_patches.float(), dim=-1)

    @cached_property
    def cosines(self) -> Tensor:
        """(batch, patches, patches) cosines of two patches' features."""
        return self.features @ self.features.mT

    @property
    def flat_patches(self) -> Tensor:
        """(batch, patches, embed_dim) patch embeddings, not normalised."""
        return self.patches.flatten(1, 2)

    @property
    def class_maps(self) -> Tensor:
        """(batch, patches, classes) `similarity`, for measures that need it."""
        assert self.similarity is not None
        return self.similarity.flatten(1, 2)

    @property
    def undefined(self) -> Tensor:
        """(batch,) NaN, the result of a measure that has no meaning here."""
        return self.patches.new_full((len(self.patches),), torch.nan, dtype=torch.float32)

    @cached_property
    def flat_labels(self) -> Tensor:
        """(batch, patches)."""
        return self.labels.flatten(1)

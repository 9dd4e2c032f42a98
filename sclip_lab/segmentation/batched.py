"""Labels and counts of a batch of photos at once, for a device that starts kernels slowly.

On a GPU a photo's readout takes less time than starting its kernels. Here the same few kernels
stitch, threshold and count all photos of a batch, whatever their sizes: smaller photos are padded
with zeros in the stitching matrices and with void in the masks. Nothing here waits for the device;
the caller copies the counts of all variants to the host together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.windows import Plan, stitching_matrix

# Values of stitched logits in memory at once: one gigabyte.
LARGEST = 1 << 28


class Geometry:
    """Where the windows of some photos lie, on a device.

    The plans of the photos have the grid of the patch logits; ``starts`` are the numbers of each
    photo's first window among all windows.
    """

    def __init__(self, plans: Sequence[Plan], starts: Sequence[int], device: torch.device) -> None:
        self.plans = plans
        matrices = [[stitching_matrix(plan, axis) for plan in plans] for axis in (0, 1)]
        self.by, self.bx = (_padded(some).to(device) for some in matrices)
        cells = self.by.shape[2], self.bx.shape[2]
        index = np.zeros((len(plans), *cells), dtype=np.int64)
        for number, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            grid_h, grid_w = plan.grid
            y, x = (np.arange(len(axis.starts) * axis.cells) for axis in (plan.rows, plan.columns))
            # Window and patch of each cell of the map in which all windows lie side by side.
            window = (y // grid_h)[:, None] * len(plan.columns.starts) + x // grid_w
            patch = (y % grid_h)[:, None] * grid_w + x % grid_w
            index[number, : len(y), : len(x)] = (start + window) * grid_h * grid_w + patch
        self.index = torch.from_numpy(index).to(device)
        self.size = self.by.shape[1], self.bx.shape[1]

    def stitch(self, logits: Tensor, photos: slice) -> Tensor:
        """Stitched logits of some photos, (photos, height, width, queries); zero beyond a photo.

        ``logits`` are the patch logits of all photos, (windows, grid_h, grid_w, queries).
        """
        laid_out = logits.flatten(0, 2)[self.index[photos]]  # (photos, rows, columns, queries)
        queries = laid_out.shape[-1]
        count, (height, width) = len(laid_out), self.size
        wide = torch.bmm(self.bx[photos], laid_out.transpose(1, 2).flatten(2))
        wide = wide.view(count, width, -1, queries).transpose(1, 2).flatten(2)
        return torch.bmm(self.by[photos], wide).view(count, height, width, queries)


def _padded(matrices: Sequence[Tensor]) -> Tensor:
    high, wide = (max(matrix.shape[axis] for matrix in matrices) for axis in (0, 1))
    return torch.stack([F.pad(m, (0, wide - m.shape[1], 0, high - m.shape[0])) for m in matrices])


def suits(readout: Readout, geometry: Geometry) -> bool:
    """Whether `decide` can label photos with this readout.

    It can if the readout has neither a refinement nor a threshold that is found for each photo, and
    if the stitched logits of one photo are at most `LARGEST` values.
    """
    alone = bool(readout.steps.refinements) or isinstance(readout.protocol.prob_threshold, Mapping)
    return not alone and math.prod(geometry.size) * len(readout.query_classes) <= LARGEST


def decide(readout: Readout, stitched: Tensor, inside: Tensor) -> Tensor:
    """Class ids (photos, height, width) of stitched logits, as `Readout.predict` decides.

    ``inside``, (photos, height, width) bool, is what belongs to a photo.
    """
    protocol = readout.protocol
    threshold = protocol.prob_threshold
    assert not isinstance(threshold, Mapping)
    classes = readout.query_classes.to(stitched.device)
    best, query = stitched.max(dim=-1)
    labels = classes[query]
    normaliser = (stitched * protocol.logit_scale).logsumexp(dim=-1) if threshold else None
    if protocol.area_threshold:
        area = torch.zeros(len(labels), readout.num_classes, device=labels.device)
        area.scatter_add_(1, labels.flatten(1), inside.flatten(1).to(area))
        area[:, protocol.background] = 0
        total = area.sum(dim=1, keepdim=True)
        large_enough = (area / total > protocol.area_threshold) | (total == 0)
        large_enough[:, protocol.background] = True
        dropped = ~large_enough[:, classes][:, None, None]
        best, query = stitched.masked_fill(dropped, -torch.inf).max(dim=-1)
        labels = classes[query]
    if normaliser is not None:
        probability = (best * protocol.logit_scale - normaliser).exp()
        labels = labels.masked_fill(probability < threshold, protocol.background)
    return labels


def confusion(labels: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Confusion counts [true, predicted] of some photos: (photos, classes + 1, classes) int32.

    ``labels`` and ``masks`` are (photos, height, width) int64 class ids; void in ``masks`` is
    ``classes``, the last row.
    """
    cells = (masks * classes + labels).flatten(1)
    counts = torch.zeros(len(labels), (classes + 1) * classes, dtype=torch.int32)
    counts = counts.to(labels.device)
    ones = torch.ones((), dtype=torch.int32, device=labels.device).expand_as(cells)
    return counts.scatter_add_(1, cells, ones).view(-1, classes + 1, classes)


def label_and_count(
    readout: Readout, geometry: Geometry, logits: Tensor, masks: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Labels of each photo, (height, width), and all photos' `confusion`.

    ``logits`` are the patch logits of all photos, (windows, grid_h, grid_w, queries); ``masks`` are
    (photos, *geometry.size) int64, -1 beyond a photo.
    """
    height, width = geometry.size
    each = max(1, LARGEST // (height * width * logits.shape[-1]))
    labels, counts = [], []
    for first in range(0, len(masks), each):
        photos = slice(first, first + each)
        inside = masks[photos] >= 0
        predictions = decide(readout, geometry.stitch(logits, photos), inside)
        void = readout.num_classes
        counts.append(confusion(predictions, torch.where(inside, masks[photos], void), void))
        labels += [
            one[: plan.target[0], : plan.target[1]]
            for one, plan in zip(predictions, geometry.plans[photos], strict=True)
        ]
    return labels, torch.cat(counts)


def masks_of(
    masks: Sequence[np.ndarray], size: tuple[int, int], classes: int, ignored: int
) -> Tensor:
    """(photos, *size) int16 on the CPU: class ids, ``classes`` for void, -1 beyond a photo."""
    result = torch.full((len(masks), *size), -1, dtype=torch.int16)
    for place, mask in zip(result, masks, strict=True):
        ids = np.where(mask == ignored, classes, mask).astype(np.int16)
        place[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(ids)
    return result

"""Sliding windows, stitched by two small matrices.

Upsampling each window's patch logits, averaging overlaps and resizing to the photo are all linear,
and the windows are a Cartesian product of rows and columns. So all of it is ``B_y L B_x^T``, with L
the patch logits of all windows side by side. It equals the usual accumulate-and-divide to rounding;
row bands of B_y bound the memory whatever the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import cells
from sclip_lab.network.truth import majority

Size = tuple[int, int]
# At most so many values are in a band of rows.
CPU_BAND, GPU_BAND = 1 << 20, 1 << 26
# A photo's side of at most so many pixels is stitched by one dense matrix.
LONG_SIDE = 4096


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    Attributes:
        starts: first pixel of each window in the resized image.
        crop, cells: pixels and patches in a window.
        patch: pixels in a patch.
        before, after: pixels of padding on either side of a window.
    """

    starts: tuple[int, ...]
    crop: int
    cells: int
    patch: int
    before: int = 0
    after: int = 0

    @property
    def seen(self) -> int:
        """Pixels that the network sees."""
        return self.before + self.crop + self.after


@dataclass(frozen=True)
class Plan:
    """Window geometry of one image size.

    Attributes:
        resized: (height, width) in which windows are cut.
        target: (height, width) of the photo.
        rows, columns: the windows along either axis.
    """

    resized: Size
    target: Size
    rows: Axis
    columns: Axis

    @property
    def grid(self) -> Size:
        """(grid_h, grid_w) of one window."""
        return self.rows.cells, self.columns.cells

    @property
    def num_windows(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def corners(self) -> tuple[Size, ...]:
        """(row, column) of each window's first pixel, rows first. Padding counts as part of a
        window, so a corner may lie outside of the image.
        """
        rows, columns = self.rows, self.columns
        return tuple(
            (y - rows.before, x - columns.before) for y in rows.starts for x in columns.starts
        )

    def on_grid(self, grid: Size) -> Plan:
        """The same windows with another number of cells each."""
        if grid == self.grid:
            return self
        rows, columns = replace(self.rows, cells=grid[0]), replace(self.columns, cells=grid[1])
        return replace(self, rows=rows, columns=columns)

    def cut(self, image: Tensor, fill: float = 0, windows: slice = slice(None)) -> Tensor:
        """(channels, height, width) -> (windows, channels, crop_h, crop_w), rows first.

        All windows or some of them, padded with ``fill``.
        """
        if tuple(image.shape[-2:]) != self.resized:
            raise LabError(f"image of {tuple(image.shape[-2:])} pixels, planned for {self.resized}")
        rows, columns = self.rows, self.columns
        starts = [(y, x) for y in rows.starts for x in columns.starts][windows]
        cut = torch.stack([image[:, y : y + rows.crop, x : x + columns.crop] for y, x in starts])
        sides = (columns.before, columns.after, rows.before, rows.after)
        return F.pad(cut, sides, value=fill) if any(sides) else cut

    def lay_out(self, patches: Tensor) -> Tensor:
        """Patch maps of all windows side by side.

        (windows, grid_h, grid_w, channels) -> (channels, n_rows * grid_h, n_columns * grid_w).
        """
        n_rows, n_columns = len(self.rows.starts), len(self.columns.starts)
        planned = (self.num_windows, *self.grid)
        if patches.shape[:3] != planned:
            raise LabError(f"patches of {tuple(patches.shape)}, planned for {planned}")
        grid_h, grid_w = self.grid
        split = patches.view(n_rows, n_columns, grid_h, grid_w, -1)
        return split.permute(4, 0, 2, 1, 3).reshape(-1, n_rows * grid_h, n_columns * grid_w)

    def bands(
        self, laid_out: Tensor, max_values: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The stitched map in row bands.

        ``laid_out`` is from `lay_out`, ``max_values`` as in `row_bands`.

        Yields:
            (rows of the target, (channels, rows, target width) float32). All bands share their
            memory: the caller may read and overwrite a band until it asks for the next.
        """
        wide = self._widened(laid_out)
        channels, _, width = wide.shape
        memory = None
        for rows in self.row_bands(channels, laid_out.device, max_values):
            first, by = stitching_part(self, 0, rows)
            shape = (channels, rows.stop - rows.start, width)
            if memory is None:
                memory = wide.new_empty(math.prod(shape))
            band = memory[: math.prod(shape)].view(shape)
            used = wide[:, first : first + by.shape[1]]
            yield rows, torch.matmul(by.to(wide.device), used, out=band)

    def _widened(self, laid_out: Tensor) -> Tensor:
        """(channels, n_rows * grid_h, target width): columns are stitched, rows not yet."""
        width = self.target[1]
        if width <= LONG_SIDE:
            # The whole B_x, most of it zero: the time goes into writing the result anyway.
            return F.linear(laid_out, stitching_matrix(self, 1).to(laid_out.device))
        wide = laid_out.new_empty(*laid_out.shape[:2], width)
        for left in range(0, width, LONG_SIDE):
            part = slice(left, min(left + LONG_SIDE, width))
            first, bx = stitching_part(self, 1, part)
            used = laid_out[:, :, first : first + bx.shape[1]]
            wide[:, :, part] = F.linear(used, bx.to(laid_out.device))
        return wide

    def row_bands(
        self, channels: int, device: torch.device, max_values: int | None = None
    ) -> Iterator[slice]:
        """Rows of the target, each band of at most ``max_values`` values but at least one row.

        None takes what fits into the cache of a CPU core, or a quarter of a gigabyte on a GPU,
        where each band costs the start of several kernels.
        """
        if max_values is None:
            max_values = CPU_BAND if device.type == "cpu" else GPU_BAND
        height, width = self.target
        step = max(1, max_values // (channels * width))
        for top in range(0, height, step):
            yield slice(top, min(top + step, height))

    def stitch(self, laid_out: Tensor) -> Tensor:
        """The whole stitched map at once: (channels, target height, target width)."""
        [(_, whole)] = self.bands(laid_out, 1 << 62)
        return whole


def plan(
    resized: Size,
    target: Size,
    crop: int | None,
    stride: int,
    patch: int,
    padding: str = "floor",
    multiple: int | None = None,
) -> Plan:
    """Plan windows as mmsegmentation's slide inference cuts them.

    The last window is shifted inward; a side smaller than the crop is used whole.

    Args:
        resized, target: as in `Plan`.
        crop, stride, patch: pixels; crop None takes the whole image as one window.
        padding: the backbone's, see `sclip_lab.network.backbone.cells`.
        multiple: pad windows with zeros on both sides, the odd pixel at the end, until their sides
            are multiples of so many pixels; None: no such padding.

    Raises:
        LabError: a crop smaller than a patch, or a stride that leaves gaps.
    """
    if crop is not None and not 1 <= stride <= crop:
        raise LabError(f"stride {stride} must lie in 1 .. crop_size {crop}; larger leaves gaps")
    axes = []
    for side in resized:
        size = side if crop is None else min(crop, side)
        added = -size % multiple if multiple else 0
        inside = cells(size + added, patch, padding)
        if inside < 1:
            raise LabError(f"windows of {size} px (image {resized}) are smaller than a patch")
        count = max(side - size + stride - 1, 0) // stride + 1  # windows that cover the side
        starts = tuple(min(i * stride, side - size) for i in range(count))
        axes.append(Axis(starts, size, inside, patch, added // 2, added - added // 2))
    return Plan((resized[0], resized[1]), (target[0], target[1]), *axes)


def bilinear_matrix(inputs: int, outputs: int) -> sparse.csr_array:
    """(outputs, inputs) float64: torch's bilinear resizing of an axis, corners not aligned."""
    source = np.maximum((np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5, 0)
    low = np.minimum(source.astype(int), inputs - 1)
    high = np.minimum(low + 1, inputs - 1)
    share = source - low
    rows = np.arange(outputs)
    entries = np.concatenate([1 - share, share])
    places = np.concatenate([rows, rows]), np.concatenate([low, high])
    matrix = sparse.coo_array((entries, places), shape=(outputs, inputs)).tocsr()
    matrix.eliminate_zeros()
    return matrix


@lru_cache(maxsize=256)
def _sparse_stitching(plan: Plan, axis: int) -> sparse.csr_array:
    """(target side, windows * cells) float32: upsample, average over overlaps, resize."""
    # Sparse, since a pixel lies in few windows and a photo may be very long.
    windows = (plan.rows, plan.columns)[axis]
    side, target = plan.resized[axis], plan.target[axis]
    up = bilinear_matrix(windows.cells, windows.seen)
    up = up[windows.before : windows.before + windows.crop].tocoo()
    starts = np.asarray(windows.starts)
    number = np.arange(len(starts))
    rows = (starts[:, None] + up.row).ravel()
    columns = (number[:, None] * windows.cells + up.col).ravel()
    entries = np.tile(up.data, len(starts))
    shape = side, len(starts) * windows.cells
    placed = sparse.coo_array((entries, (rows, columns)), shape=shape).tocsr()
    # How many windows cover each pixel: one more where one begins, one less behind its end.
    edges = np.zeros(side + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + windows.crop, -1)
    count = np.cumsum(edges[:side])
    placed.data /= np.repeat(count, np.diff(placed.indptr))
    stitching = (bilinear_matrix(side, target) @ placed).astype(np.float32)
    stitching.sort_indices()
    return stitching


@lru_cache(maxsize=256)
def stitching_matrix(plan: Plan, axis: int) -> Tensor:
    """The whole matrix of one axis: (target side, windows * cells) float32."""
    return torch.from_numpy(_sparse_stitching(plan, axis).toarray())


def stitching_part(plan: Plan, axis: int, rows: slice) -> tuple[int, Tensor]:
    """Some rows of `stitching_matrix` from the first to the last column that is not zero.

    Returns the number of that first column, and (rows, columns) float32.
    """
    matrix = _sparse_stitching(plan, axis)
    indices = matrix.indices[matrix.indptr[rows.start] : matrix.indptr[rows.stop]]
    first, last = int(indices.min()), int(indices.max()) + 1
    if plan.target[axis] <= LONG_SIDE:
        return first, stitching_matrix(plan, axis)[rows, first:last]
    return first, torch.from_numpy(matrix[rows, first:last].toarray())


def patch_counts(plan: Plan, mask: np.ndarray, ignore_index: int) -> Tensor:
    """Pixels of each class in each patch of each window: (windows, grid_h, grid_w, classes) int32.

    ``mask`` has the (height, width) class ids at the photo's size; ids ``ignore_index`` do not
    count. ``classes`` is the mask's largest id + 1.
    """
    votes = torch.from_numpy(np.where(mask == ignore_index, -1, mask.astype(np.int64)))
    # Nearest neighbours: a class id cannot be interpolated.
    rows = (torch.arange(plan.resized[0]) * plan.target[0]) // plan.resized[0]
    columns = (torch.arange(plan.resized[1]) * plan.target[1]) // plan.resized[1]
    cut = plan.cut(votes[rows][:, columns][None], fill=-1)[:, 0]
    high, wide = (axis.cells * axis.patch for axis in (plan.rows, plan.columns))
    # Pixels beyond the last patch are dropped; padding does not vote.
    cut = F.pad(cut, (0, wide - plan.columns.seen, 0, high - plan.rows.seen), value=-1)
    side = plan.rows.patch
    patches = cut.unfold(1, side, side).unfold(2, side, side).flatten(3)
    classes = max(1, int(votes.max()) + 1)
    counts = torch.zeros(*patches.shape[:3], classes + 1, dtype=torch.int32)
    counts.scatter_add_(3, patches + 1, torch.ones_like(patches, dtype=torch.int32))
    return counts[..., 1:]  # the first place has the pixels of no class


def patch_labels(plan: Plan, mask: np.ndarray, ignore_index: int) -> Tensor:
    """Majority class of each patch of each window: (windows, grid_h, grid_w) int64.

    -1 where no pixel votes; ties go to the lower id. Args as in `patch_counts`.
    """
    return majority(patch_counts(plan, mask, ignore_index))

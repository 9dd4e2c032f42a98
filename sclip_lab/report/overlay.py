"""Attention of chosen points over the whole photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec


def attention_over_photo(
    spec: Spec, image: np.ndarray, points: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    """Where the patch under each point looks, in all windows that hold the point.

    A weight is the mean over heads and over those windows that hold both the point and the place.

    Args:
        spec: network, variant and protocol. image: (height, width, 3) uint8.
        points: row, column in pixels of the photo.

    Returns:
        per point (height, width) float32; NaN where no window sees both, or everywhere for a
        variant without a single map.
    """
    from sclip_lab.segmentation.pipeline import encode_photo

    plan, encoded = encode_photo(spec.backbone, image, spec.protocol, spec.attention)
    weights = encoded.state.attention
    height, width = image.shape[:2]
    if weights is None:
        return [np.full((height, width), np.nan, np.float32) for _ in points]
    grid_h, grid_w = plan.grid
    skip = weights.shape[-1] - grid_h * grid_w  # 1 where the class token takes part
    maps = weights[:, :, skip:, skip:].float().mean(1).cpu().numpy()
    scale = height / plan.resized[0], width / plan.resized[1]
    found = []
    for point in points:
        total, seen = np.zeros((height, width)), np.zeros((height, width))
        for index, (top, left) in enumerate(
            (top, left) for top in plan.rows.starts for left in plan.columns.starts
        ):
            cell, box = [], []
            for axis, start, pixel, factor, size in (
                (plan.rows, top, point[0], scale[0], height),
                (plan.columns, left, point[1], scale[1], width),
            ):
                step, first = axis.seen / axis.cells, start - axis.before
                cell.append(int(np.floor(((pixel + 0.5) / factor - first) / step)))
                centres = (np.arange(size) + 0.5) / factor - first
                box.append(np.floor(centres / step).astype(int))
            if not (0 <= cell[0] < grid_h and 0 <= cell[1] < grid_w):
                continue
            one = maps[index, cell[0] * grid_w + cell[1]].reshape(grid_h, grid_w)
            rows, columns = ((b >= 0) & (b < n) for b, n in zip(box, (grid_h, grid_w), strict=True))
            place = np.ix_(rows, columns)
            total[place] += one[np.ix_(box[0][rows], box[1][columns])]
            seen[place] += 1
        with np.errstate(invalid="ignore"):
            found.append((total / seen).astype(np.float32))
    return found

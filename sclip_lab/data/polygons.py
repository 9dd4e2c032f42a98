"""Draw the regions of annotation files. Polygons of all formats are drawn by pycocotools' rule.

A polygon's corner (x, y) lies x pixels right of and y pixels below the photo's upper left corner,
so the square of pixel (row, column) reaches from (column, row) to (column + 1, row + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from sclip_lab.core.errors import LabError

Points = Sequence[Sequence[float]]


def polygon(points: Points, size: tuple[int, int], holes: Sequence[Points] = ()) -> np.ndarray:
    """(height, width) bool: the inside of a polygon of three or more (x, y), without its holes."""
    try:
        flat = np.array(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise LabError(f"a polygon of {str(points)[:60]}: {error}") from None
    if len(flat) < 3 or not np.isfinite(flat).all():
        raise LabError(f"a polygon of {len(flat)} corners; it needs three, and finite numbers")
    region = segmentation([flat.ravel().tolist()], size)
    for hole in holes:
        region &= ~polygon(hole, size)
    return region


def rectangle(points: Points, size: tuple[int, int]) -> np.ndarray:
    """The inside of a rectangle with the given two opposite corners, or with all four."""
    if len(points) == 4:
        return polygon(points, size)
    (x1, y1), (x2, y2) = points[0], points[-1]
    return polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], size)


def circle(points: Points, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies within a circle, given by its centre and a point on it."""
    (x, y), (edge_x, edge_y) = points
    rows, columns = np.ogrid[0.5 : size[0] : 1, 0.5 : size[1] : 1]
    return (columns - x) ** 2 + (rows - y) ** 2 <= (edge_x - x) ** 2 + (edge_y - y) ** 2


def pasted(bitmap: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """A (rows, columns) bool bitmap at its place in the photo, cut at the photo's border."""
    region = Image.new("L", size[::-1])
    region.paste(Image.fromarray(bitmap.astype(np.uint8)), (left, top))
    return np.array(region, bool)


def segmentation(value: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of COCO's ``segmentation``: polygons or run lengths, packed or not."""
    height, width = size
    complete = True
    try:
        if isinstance(value, list):
            if any(np.ndim(part) != 1 or len(part) < 6 or len(part) % 2 for part in value):
                raise LabError("a polygon is a list x1, y1, x2, y2, ... of three or more corners")
            corners = np.array([x for part in value for x in part], np.float64)
            x, y = corners[::2], corners[1::2]
            if len(x) and (x.min() >= width or y.min() >= height or min(x.max(), y.max()) <= 0):
                raise LabError(f"all corners lie outside of the photo of {width} x {height} pixels")
            if not np.isfinite(corners).all() or (corners.size and corners.max() <= 1):
                raise LabError("corners must be finite numbers in pixels, not shares of the photo")
            runs = coco.merge(coco.frPyObjects(value, height, width))
        elif isinstance(value, Mapping) and list(value["size"]) != [height, width]:
            raise LabError(f"run lengths of size {value['size']} on a photo of [{height}, {width}]")
        elif isinstance(value["counts"], list):
            complete = sum(value["counts"]) == height * width
            runs = coco.frPyObjects(value, height, width)
        else:
            runs = value
        region = coco.decode(runs)
        # If the runs end too soon, pycocotools leaves the pixels behind them uninitialised.
        if not complete or np.count_nonzero(region) != int(coco.area(runs)):
            raise LabError(f"run lengths do not fill a photo of {width} x {height} pixels")
        return region.astype(bool)
    except LabError:
        raise
    except Exception as error:  # pycocotools raises many kinds
        raise LabError(
            f"segmentation cannot be decoded ({error or type(error).__name__})"
        ) from error

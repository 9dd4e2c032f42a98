"""Confusion counts of one image, and the field's scores on summed counts.

The mIoU is the field's (mmsegmentation's ``IoUMetric``): intersections and unions are summed over
the whole data set, divided class by class, and averaged over the classes that occur. It is not the
mean of per-image scores. All scores are fractions in [0, 1], higher is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sclip_lab.core.errors import LabError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float64]


class Rows(NamedTuple):
    """The non-zero cells of a confusion matrix, ordered by true, then by predicted class."""

    true: npt.NDArray[np.int16]
    predicted: npt.NDArray[np.int16]
    pixels: npt.NDArray[np.int64]


def count(
    prediction: npt.NDArray[np.integer] | torch.Tensor,
    mask: npt.NDArray[np.integer] | torch.Tensor,
    num_classes: int,
    ignore_index: int = 255,
) -> Rows:
    """Count how often each true class was predicted as each class in one image.

    Args:
        prediction: (height, width) class ids in 0 .. num_classes - 1.
        mask: (height, width) class ids, or ``ignore_index`` where a pixel is not to be counted.

    Raises:
        LabError: if the shapes differ or an id is outside the vocabulary.
    """
    predicted, true = _labels("prediction", prediction), _labels("mask", mask)
    if predicted.shape != true.shape:
        raise LabError(f"prediction is {predicted.shape}, but its mask is {true.shape}")
    if true.size == 0:
        raise LabError(f"mask of shape {true.shape} holds no pixel")
    _check_range("prediction", predicted, 0, num_classes - 1, num_classes)
    lowest = min(0, ignore_index)
    _check_range("mask", true, lowest, max(num_classes - 1, ignore_index), num_classes)

    cells = np.subtract(true, lowest, dtype=np.intp)
    cells *= num_classes
    cells += predicted
    pixels = np.bincount(cells.ravel())
    occupied = np.flatnonzero(pixels)
    true_ids = occupied // num_classes + lowest
    occupied = occupied[true_ids != ignore_index]
    true_ids = true_ids[true_ids != ignore_index]
    outside = np.unique(true_ids[(true_ids < 0) | (true_ids >= num_classes)])
    if outside.size:
        raise LabError(
            f"mask holds id {', '.join(map(str, outside))}; expected 0..{num_classes - 1} "
            f"for {num_classes} classes, or {ignore_index} to ignore"
        )
    return Rows(
        true_ids.astype(np.int16),
        (occupied % num_classes).astype(np.int16),
        pixels[occupied].astype(np.int64),
    )


def check_mask(mask: npt.NDArray[np.integer], num_classes: int, ignore_index: int) -> None:
    """Refuse a mask as `count` does.

    Raises:
        LabError: an id outside the vocabulary.
    """
    wrong = ((mask < 0) | (mask >= num_classes)) & (mask != ignore_index)
    if wrong.any():
        count(np.zeros(mask.shape, np.int64), mask, num_classes, ignore_index)


def of_matrix(matrix: npt.NDArray[np.integer]) -> Rows:
    """The rows of a (classes, classes) confusion matrix, [true, predicted] -> pixels."""
    true, predicted = np.nonzero(matrix)
    pixels = matrix[true, predicted].astype(np.int64)
    return Rows(true.astype(np.int16), predicted.astype(np.int16), pixels)


def _labels(name: str, labels: npt.NDArray[np.integer] | torch.Tensor) -> npt.NDArray[np.integer]:
    on_host = labels if isinstance(labels, np.ndarray) else labels.detach().cpu().numpy()
    if on_host.ndim != 2 or not np.issubdtype(on_host.dtype, np.integer):
        raise LabError(
            f"{name} has shape {on_host.shape} and type {on_host.dtype}; "
            "expected (height, width) integers"
        )
    return on_host


def _check_range(
    name: str, labels: npt.NDArray[np.integer], low: int, high: int, num_classes: int
) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < low or highest > high:
        wrong = lowest if lowest < low else highest
        raise LabError(
            f"{name} holds id {wrong}; expected 0..{num_classes - 1} for {num_classes} classes"
        )


def iou_of_totals(totals: npt.NDArray[Any]) -> Array:
    """Intersection over union per class, (..., classes), from (..., 3, classes) pixel totals:
    right, true, predicted. NaN for a class that occurs neither in the truth nor in the prediction.
    """
    right, true, predicted = np.moveaxis(np.asarray(totals), -2, 0)
    return divide(right, true + predicted - right)


def divide(part: npt.ArrayLike, whole: npt.ArrayLike) -> Array:
    """part / whole in float64, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def nanmean(values: Array) -> Array:
    """Mean over the last axis without NaNs; NaN, without a warning, where nothing is left."""
    return divide(np.nansum(values, -1), np.count_nonzero(~np.isnan(values), -1))

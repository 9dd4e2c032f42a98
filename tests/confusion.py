"""Confusion matrices, from which tests know the scores that the library has from pixel totals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sclip_lab.results.table import metrics
from sclip_lab.results.table.scores import STATISTICS


def confusion(rows: metrics.Rows, num_classes: int) -> npt.NDArray[np.int64]:
    """Sum sparse rows to a (num_classes, num_classes) matrix: [true, predicted] -> pixels."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (rows.true, rows.predicted), rows.pixels)
    return matrix


def counted(
    prediction: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], num_classes: int
) -> npt.NDArray[np.int64]:
    """The confusion matrix of one image."""
    return confusion(metrics.count(prediction, mask, num_classes), num_classes)


def iou(matrix: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """IoU per class of (..., classes, classes)."""
    return metrics.iou_of_totals(_totals(matrix))


def score(matrix: npt.NDArray[np.integer], statistic: str = "miou") -> npt.NDArray[np.float64]:
    """One of the library's statistics of (..., classes, classes)."""
    return STATISTICS[statistic](_totals(matrix))


def _totals(matrix: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.stack([right, matrix.sum(-1), matrix.sum(-2)], axis=-2)

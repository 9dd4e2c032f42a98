"""Scores of predictions made without a look at the photo: below these a score says nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sclip_lab.results.table.metrics import Array
from sclip_lab.results.table.scores import STATISTICS, check_rows, fullest, totals_of

CONSTANT, MAJORITY, RANDOM = (
    "best constant class",
    "most frequent class per photo",
    "random patches",
)


def totals(true: Array) -> dict[str, Array]:
    """Counts of three predictions that need no network.

    Best constant class: the class with most pixels of all photos, predicted everywhere. Most
    frequent class per photo: the photo's largest class, predicted on all of it; nobody knows this
    class without the mask. Random patches: each class is equally likely at each place (expected
    counts).

    Args:
        true: (images, classes) pixels by true class.

    Returns:
        name -> (images, 3, classes) pixels: right, true, predicted.
    """
    images, classes = true.shape
    pixels = true.sum(1, keepdims=True)
    constant = np.zeros_like(true)
    constant[:, np.argmax(true.sum(0))] = 1
    majority = np.zeros_like(true)
    majority[np.arange(images), true.argmax(1)] = 1
    shares = {CONSTANT: constant, MAJORITY: majority, RANDOM: np.full_like(true, 1 / classes)}
    return {
        name: np.stack([share * true, true, share * pixels], axis=1)
        for name, share in shares.items()
    }


def floors(df: pd.DataFrame, statistic: str = "miou") -> pd.DataFrame:
    """Scores of `totals` on every data set of a results DataFrame.

    The spec with the most images stands for its data set.

    Returns:
        Columns dataset, floor, score: three rows a data set.

    Raises:
        LabError: not a table of `results.load`.
    """
    check_rows(df)
    return of_checked(df, statistic)


def of_checked(df: pd.DataFrame, statistic: str = "miou") -> pd.DataFrame:
    """`floors` of rows that `check_rows` has let pass."""
    rows = []
    for dataset, of_spec in fullest(df):
        codes, position = np.unique(of_spec["image"].astype(str), return_inverse=True)
        true = totals_of(of_spec, position, len(codes))[:, 1]
        rows += [
            (dataset, name, float(STATISTICS[statistic](counts.sum(0))))
            for name, counts in totals(true).items()
        ]
    return pd.DataFrame(rows, columns=["dataset", "floor", "score"])

"""Scores of a tidy results DataFrame, one per group of its rows.

Every score needs only three pixel totals per class (right, true, predicted), so rows are summed to
these: (groups, 3, classes), small enough to keep for each image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.results.table import metrics

NAMES = ["spec", "attention", "backbone", "dataset", "protocol"]
ROWS = ["image", "true", "predicted", "pixels"]


# Scores of (..., 3, classes) pixel totals: right, true, predicted.
STATISTICS: dict[str, Callable[[npt.NDArray[Any]], metrics.Array]] = {
    "miou": lambda totals: metrics.nanmean(metrics.iou_of_totals(totals)),
    "pixel_accuracy": lambda t: metrics.divide(t[..., 0, :].sum(-1), t[..., 1, :].sum(-1)),
    "mean_accuracy": lambda t: metrics.nanmean(metrics.divide(t[..., 0, :], t[..., 1, :])),
}


def check_rows(df: pd.DataFrame) -> None:
    """Refuse a table that would give a wrong score; warn of one without the ``attrs`` of `load`.

    Raises:
        LabError: not a table of `load`, no row, an empty name, a count that is none, a class
            beyond the data set's, or a row twice.
    """
    columns = list(df.columns) if isinstance(df, pd.DataFrame) else []
    if lacking := [name for name in [*NAMES, *ROWS] if columns.count(name) != 1]:
        raise LabError(
            "expected the table of results.load, with its columns spec, image, ...; it has "
            f"none, or several, of {', '.join(lacking)}"
        )
    if df.empty:
        raise LabError("the table has no row; look at how its rows were selected")
    for name in (*NAMES, "image"):
        if df[name].isna().any() or (name == "spec" and is_numeric_dtype(df[name])):
            raise LabError(f"column {name} holds numbers or empty cells; results.load gives texts")
    sizes = {name: len(classes) for name, classes in df.attrs.get("class_names", {}).items()}
    classes = df["dataset"].astype(object).map(sizes).to_numpy(np.float64, na_value=np.inf)
    for name, beyond in (("true", classes), ("predicted", classes), ("pixels", np.inf)):
        count = is_numeric_dtype(df[name]) and not is_bool_dtype(df[name])
        numbers = df[name].to_numpy(np.float64, na_value=np.nan) if count else np.array(np.nan)
        if not ((numbers >= 0) & (numbers < beyond) & (numbers == np.floor(numbers))).all():
            what = "count" if name == "pixels" else "class id of its data set"
            raise LabError(f"column {name} holds a value that is no {what}")
    twice = df.duplicated(["spec", "image", "true", "predicted"])
    if twice.any():
        raise LabError(
            f"rows of spec {df['spec'][twice].iloc[0]} are there twice, as where tables that share "
            "it were joined; use drop_duplicates(['spec', 'image', 'true', 'predicted'])"
        )
    if "configs" not in df.attrs:
        warnings.warn(
            "the table has lost df.attrs (pd.concat and csv files drop them), so splits and "
            "oracles are not told apart; copy specs/* of one store into the other and load that",
            stacklevel=3,
        )


def miou(df: pd.DataFrame, by: str | list[str] = "spec") -> pd.Series:
    """The field's mIoU per group, in order of appearance; by=["spec", "image"] for single images.

    Raises:
        LabError: if a group mixes specs, whose pixels must not be summed.
    """
    check_rows(df)
    return per_group(df, by, "miou")


def pixel_accuracy(df: pd.DataFrame, by: str | list[str] = "spec") -> pd.Series:
    """Share of the counted pixels that is right, per group; see `miou`."""
    check_rows(df)
    return per_group(df, by, "pixel_accuracy")


def iou(df: pd.DataFrame) -> pd.DataFrame:
    """Tidy per-class IoU: the spec's columns, id, class, iou (NaN: neither there nor predicted)."""
    check_rows(df)
    groups = df.groupby("spec", observed=True, sort=False)
    scores = metrics.iou_of_totals(totals_of(df, groups.ngroup().to_numpy(), groups.ngroups))
    specs, tables = spec_rows(df), []
    for (_, row), score in zip(specs.iterrows(), scores, strict=True):
        names = class_names_of(df, str(row["dataset"]), str(row["spec"]))
        names = names or [f"class {index}" for index in range(len(score))]
        table = pd.DataFrame({"id": range(len(names)), "class": names, "iou": score[: len(names)]})
        tables.append(table.assign(spec=row["spec"]))
    return specs.merge(pd.concat(tables), on="spec")


def per_group(df: pd.DataFrame, by: str | list[str], statistic: str) -> pd.Series:
    """One of `STATISTICS` per group of rows that `check_rows` has let pass; see `miou`."""
    missing = [name for name in ([by] if isinstance(by, str) else by) if name not in df]
    if missing:
        raise unknown("column", missing[0], map(str, df.columns))
    groups = df.groupby(by, observed=True, sort=False, dropna=False)
    if (groups["spec"].nunique() > 1).any():
        raise LabError(
            f"a group of by={by} holds several specs; add 'spec', or what tells them apart"
        )
    totals = totals_of(df, groups.ngroup().to_numpy(), groups.ngroups)
    index = groups["pixels"].size().index
    return pd.Series(STATISTICS[statistic](totals), index, name=statistic)


def spec_rows(df: pd.DataFrame) -> pd.DataFrame:
    """The columns that describe a spec, one row per spec in order of appearance."""
    return df.drop_duplicates("spec").drop(columns=ROWS).reset_index(drop=True)


def fullest(df: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each data set with the rows of its spec with the most images: they hold the truth of
    the other specs' images too."""
    for dataset, rows in df.groupby("dataset", observed=True, sort=False):
        images = rows.groupby("spec", observed=True, sort=False)["image"].nunique()
        yield str(dataset), rows[rows["spec"] == images.idxmax()]


def is_oracle(df: pd.DataFrame) -> pd.Series:
    """Whether each row's spec read ground truth: such a score is no method's, and has no rank."""
    return df["spec"].astype(str).isin(df.attrs.get("oracles", ()))


def methods_only(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of specs that are not oracles.

    Raises:
        LabError: all specs are oracles.
    """
    oracle = is_oracle(df)
    if not oracle.any():
        return df
    if oracle.all():
        raise LabError("all of these cells read ground truth: oracles are not ranked")
    ranked = df[~oracle]
    ranked.attrs = df.attrs
    return ranked


def class_names_of(df: pd.DataFrame, dataset: str, spec: str = "") -> list[str]:
    """The class names of a spec; without one, those of the first spec of the data set."""
    names = df.attrs.get("class_names", {}).get(dataset, [])
    return list(df.attrs.get("classes", {}).get(spec, names))


def totals_of(
    df: pd.DataFrame, groups: npt.NDArray[np.integer], num_groups: int
) -> npt.NDArray[np.float64]:
    """(groups, 3, classes) pixel totals: right, true, predicted. Exact: counts are below 2^53."""
    true, predicted = df["true"].to_numpy(np.int64), df["predicted"].to_numpy(np.int64)
    pixels = df["pixels"].to_numpy(np.float64)
    num_classes = int(max(true.max(), predicted.max())) + 1
    for dataset in df["dataset"].unique():
        num_classes = max(num_classes, len(class_names_of(df, dataset)))

    def total(classes: npt.NDArray[np.int64], weights: metrics.Array) -> metrics.Array:
        cells = np.bincount(groups * num_classes + classes, weights, num_groups * num_classes)
        return cells.astype(np.float64).reshape(num_groups, num_classes)

    right = np.where(true == predicted, pixels, 0)
    return np.stack([total(true, right), total(true, pixels), total(predicted, pixels)], axis=1)

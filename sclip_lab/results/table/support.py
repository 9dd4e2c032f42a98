"""On how many photos a class's score rests."""

from __future__ import annotations

import pandas as pd

from sclip_lab.results.table.scores import check_rows, class_names_of, fullest

# On fewer photos a class's IoU is an anecdote.
FEW = 50


def support(df: pd.DataFrame, few: int = FEW) -> pd.DataFrame:
    """Photos and pixels of every class of every data set.

    Args:
        df: from `results.load`. Specs of one data set have the same truth; the one with the most
            images is counted.
        few: a class on fewer photos is flagged.

    Returns:
        One row per (dataset, class): dataset, id, class, photos (on which the class has a counted
        pixel), pixels (counted ones on all photos, at the size of scoring), few (bool).
    """
    check_rows(df)
    tables = []
    for dataset, rows in fullest(df):
        counted = rows[rows["pixels"] > 0].groupby("true")
        true = pd.DataFrame(
            {"photos": counted["image"].nunique(), "pixels": counted["pixels"].sum()}
        )
        names = class_names_of(df, dataset, str(rows["spec"].iloc[0]))
        count = len(names) or int(rows[["true", "predicted"]].to_numpy().max()) + 1
        names = names or [f"class {index}" for index in range(count)]
        table = true.reindex(range(count), fill_value=0).rename_axis("id").reset_index()
        table.insert(0, "dataset", dataset)
        table.insert(2, "class", names)
        tables.append(table.assign(few=table["photos"] < few))
    return pd.concat(tables, ignore_index=True)


def few_classes(df: pd.DataFrame, few: int = FEW) -> pd.Series:
    """Per spec, in order of appearance: classes on at least one, but fewer than ``few`` photos."""
    counted = df.loc[df["pixels"] > 0, ["spec", "true", "image"]].drop_duplicates()
    photos = counted.groupby(["spec", "true"], observed=True, sort=False).size()
    few_by_spec = (photos < few).groupby("spec", observed=True, sort=False).sum()
    return few_by_spec.reindex(df["spec"].unique(), fill_value=0).rename_axis("spec")

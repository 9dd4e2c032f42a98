"""Where one cell gains over another: per class, per size of regions, per photo."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from sclip_lab import results
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.tables import captioned
from sclip_lab.results.table.support import FEW

# Limits of groups of sizes: the share of a photo that a class covers.
SIZES = [0.0, 0.05, 0.2, 0.5, 1.01]


def by_class(evidence: Evidence, specs: Sequence[str]) -> pd.DataFrame:
    """IoU of cells of one data set: index class id, columns class and the specs."""
    iou = results.iou(evidence.of(specs).df)
    grid = iou.pivot(index="id", columns="spec", values="iou").rename(columns=str)
    names = iou.drop_duplicates("id").set_index("id")["class"]
    return grid[list(specs)].dropna(how="all").assign(**{"class": names})


def per_class(evidence: Evidence, a: str, b: str) -> pd.DataFrame:
    """IoU of both cells and the difference, one row per class that occurs, largest gain first."""
    df = evidence.of([a]).df
    photos = df[df["pixels"] > 0].groupby("true", observed=True)["image"].nunique()
    grid = by_class(evidence, [a, b]).loc[photos.index]
    table = pd.DataFrame(
        {
            "class": grid["class"].to_list(),
            "photos": [f"{n} (few)" if n < FEW else str(n) for n in photos],
            evidence.name(a): grid[a].to_list(),
            evidence.name(b): grid[b].to_list(),
            "gain": (grid[a] - grid[b]).to_list(),
        }
    )
    caption = "IoU x100 per class, and in how many photos it occurs"
    few = f"few: below {FEW}, an anecdote"
    table = table.sort_values("gain", ascending=False, ignore_index=True)
    return captioned(table, f"{caption}; {few}")


def per_size(evidence: Evidence, a: str, b: str) -> pd.DataFrame:
    """Share of pixels that are right, by how much of its photo the pixel's class covers.

    A cell's counts are per photo and class, so a region here is all of a class in one photo.
    """
    pair = evidence.of([a, b]).df
    pair = pair[pair["pixels"] > 0]
    pair = pair.assign(
        spec=pair["spec"].astype(str), right=pair["pixels"].where(pair["true"] == pair["predicted"])
    )
    regions = pair.groupby(["spec", "image", "true"], observed=True)[["pixels", "right"]].sum()
    shares = regions["pixels"] / regions.groupby(["spec", "image"], observed=True)[
        "pixels"
    ].transform("sum")
    words = [f"{100 * low:.0f} to {min(100, 100 * high):.0f} % of the photo"
             for low, high in pairwise(SIZES)]  # fmt: skip
    regions["size"] = pd.cut(shares, SIZES, right=False, labels=words)
    sums = regions.groupby(["size", "spec"], observed=True)[["pixels", "right"]].sum()
    recall = (sums["right"] / sums["pixels"]).unstack("spec").reindex(columns=[a, b])
    table = {
        "class covers": recall.index.to_list(),
        "regions": (regions.groupby("size", observed=True).size() // 2).to_list(),
        evidence.name(a): recall[a].to_list(),
        evidence.name(b): recall[b].to_list(),
        "gain": (recall[a] - recall[b]).to_list(),
    }
    caption = "share of pixels that are right, x100, by how much of its photo the class covers"
    return captioned(table, caption)


def per_photo(evidence: Evidence, a: str, b: str) -> pd.DataFrame:
    """mIoU of both cells on each photo by itself: index image, columns a, b, gain (ascending)."""
    scores = results.miou(evidence.of([a, b]).df, ["spec", "image"]).unstack("spec")
    scores.columns = scores.columns.astype(str)
    table = pd.DataFrame({"a": scores[a], "b": scores[b], "gain": scores[a] - scores[b]})
    return table.dropna().sort_values("gain", kind="stable")

"""Published numbers (paper_numbers.csv) and which of them belongs beside one of ours.

Columns: method; attention: our label of the same variant, empty if there is none; backbone:
open_clip's architecture, "-quickgelu" left out; pretrained: beginning of the tag; dataset;
protocol: our preset's name where there is one, "sclip/paper" for the SCLIP paper's own; metric;
value: a fraction; source: its key, several separated by ";"; mark: F read in primary code, README,
issue or figure, 2 second-hand, C computed from F or 2, G a guess; note. paper_sources.csv says what
the keys stand for. A number that was not read in the paper is never called the paper's: see `kind`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from sclip_lab.core.errors import LabError

FILE = Path(__file__).resolve().parent / "paper_numbers.csv"
SOURCES = FILE.with_name("paper_sources.csv")
COLUMNS = [
    "method",
    "attention",
    "backbone",
    "pretrained",
    "dataset",
    "protocol",
    "metric",
    "value",
    "source",
    "mark",
    "note",
]
SHOWN = ["published", "published_protocol", "source", "mark"]
OWN_PROTOCOL = "sclip/paper"
KINDS = {
    "2": "second-hand note, unverified",
    "C": "computed from published numbers",
    "G": "a guess",
}


def read(file: str | Path = FILE) -> pd.DataFrame:
    """The published numbers; raises LabError if a column is missing."""
    table = pd.read_csv(file, keep_default_na=False, dtype={"mark": str})
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise LabError(f"{file} lacks the column {', '.join(missing)}")
    return table[COLUMNS]


@cache
def sources(file: str | Path = SOURCES) -> pd.DataFrame:
    """What source keys stand for: key (index), kind, what."""
    return pd.read_csv(file, keep_default_na=False).set_index("key")


def kind(source: str, mark: str) -> str:
    """The kind of source of one number, in words: what a table prints beside it.

    >>> kind("SC", "F"), kind("PN-S;TRI", "2")
    ('README of the official code', 'second-hand note, unverified')
    """
    if mark in KINDS:
        return KINDS[mark]
    known = sources()["kind"]
    return "; ".join(dict.fromkeys(str(known.get(key, key)) for key in source.split(";") if key))


def beside(table: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Add to a `results.summary` the published mIoU of each row's variant.

    A number belongs to a row if variant, backbone, weights and data set agree. Of several, the one
    of the same protocol is taken, else one that was read at first hand, such as a README of the
    official code, else the first: protocols differ between repositories, so `published_protocol`
    has to be shown with it.

    Returns:
        ``table`` with published (NaN if none), published_protocol, source, mark.
    """
    configs = table.attrs.get("configs", {})
    found = [_published(row, configs.get(row["spec"]), paper) for _, row in table.iterrows()]
    extra = pd.DataFrame(found, columns=SHOWN, index=table.index)
    extra["published"] = extra["published"].astype(float)
    joined = pd.concat([table, extra], axis=1)
    joined.attrs = table.attrs
    return joined


def _published(row: pd.Series, config: dict[str, Any] | None, paper: pd.DataFrame) -> list[Any]:
    same = paper[
        (paper["attention"] == row["attention"])
        & (paper["dataset"] == row["dataset"])
        & (paper["backbone"] == str(row["backbone"]).removesuffix("-quickgelu"))
        & (paper["metric"] == "miou")
    ]
    if config is not None:
        same = same[[_same_weights(config, tag) for tag in same["pretrained"]]]
    if same.empty:
        return [float("nan"), "", "", ""]
    rank = pd.DataFrame(
        {
            "protocol": same["protocol"] != row["protocol"],
            "mark": same["mark"] != "F",
            "other": ~same["protocol"].isin([OWN_PROTOCOL, "sclip"]),
        }
    )
    best = same.loc[rank.sort_values(["protocol", "mark", "other"], kind="stable").index[0]]
    return [best["value"], best["protocol"], best["source"], best["mark"]]


def _same_weights(config: dict[str, Any], tag: str) -> bool:
    """Random weights match nothing; a local checkpoint is taken for what its architecture says."""
    pretrained = config.get("backbone.pretrained")
    if pretrained is None:
        return config.get("backbone.checkpoint") is not None
    return str(pretrained).startswith(tag)

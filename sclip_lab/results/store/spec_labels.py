"""Short labels that are unique among the specs of a table."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sclip_lab.results.table.choices import is_absent
from sclip_lab.results.table.scores import NAMES

FACTS = ("backbone", "dataset", "protocol")  # columns of names
PLAIN = {"readout": "cosine"}  # the name of a part that is absent
DIGITS = 6
VIEWS, WEIGHT = "protocol.views.", ".weight"


def labels(table: pd.DataFrame) -> list[str]:
    """One name per row: the variant, and as few other values as tell the rows apart. A refinement
    is named wherever another row of the same protocol has none, or another one.

    Args:
        table: one row per spec, with the columns of a `results.summary`: attention (a label),
            backbone, dataset, protocol, and whatever configuration values differ.

    Returns:
        Unique names, in order. Rows that no column tells apart get the beginning of their keys.
    """
    names = [str(name) for name in table["attention"]]
    varying = [name for name in FACTS if name in table and table[name].nunique() > 1]
    # Configuration values that mean something to a reader.
    varying += [c for c in map(str, table) if "." in c and c not in NAMES and "digest" not in c]
    texts = {column: [_value(column, value) for value in table[column]] for column in varying}
    weights = [column for column in varying if column.startswith(VIEWS) and column.endswith(WEIGHT)]
    if weights:  # the names of the views say more than all weights
        views = {
            column.removeprefix(VIEWS).removesuffix(WEIGHT): table[column] for column in weights
        }
        texts = {VIEWS: _weighted(views), **texts}
    for column, values in texts.items():
        # A variant that is refined where others are not must not pass for the plain one.
        refines = column.startswith("protocol.refinement") and column.endswith("_target_")
        groups = [str(name) for name in table["protocol"]] if refines else names
        by_group: dict[str, set[str]] = {}
        for group, value in zip(groups, values, strict=True):
            by_group.setdefault(group, set()).add(value)
        clash = {group for group, different in by_group.items() if len(different) > 1}
        names = [
            f"{name} · {value}" if group in clash and value else name
            for name, group, value in zip(names, groups, values, strict=True)
        ]
    for digits in (DIGITS, None):
        twice = pd.Series(names).duplicated(keep=False).to_numpy()
        keys = [str(key)[:digits] for key in table["spec"]] if "spec" in table else []
        names = [
            f"{name} · {key}" if clash else name
            for name, clash, key in zip(names, twice, keys, strict=True)
        ] or names
    return names


def _weighted(views: Mapping[str, pd.Series]) -> list[str]:
    """Per row the names of the views whose weight is above 0."""
    rows = zip(*views.values(), strict=True)
    return [" + ".join(n for n, w in zip(views, row, strict=True) if w > 0) for row in rows]


def _value(column: str, value: object) -> str:
    """A value in few words: a function is its name, a missing value is ""."""
    if column in FACTS:
        return str(value)
    path = column.split(".")
    missing = is_absent(value)
    if path[-1] == "_target_" or (len(path) == 2 and path[-1] in PLAIN):
        return PLAIN.get(path[-2], "") if missing else str(value).rpartition(".")[2]
    if missing:
        return ""
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    owner = path[-1] if path[-1] not in ("name", "weight") else " ".join(path[-2:])
    return f"{owner} {text}"

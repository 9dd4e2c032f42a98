"""Find the specs that a choice names, and name two specs by what tells them apart.

A *choice* is a label ("csa"), the beginning of a spec's key, or a mapping of columns to values,
such as ``{"protocol": "naclip"}``, ``{"protocol.readout._target_": "maskclip"}`` or
``{"attention.temperature": 1.0}``. What a choice names may differ between two specs that are
compared; everything else has to agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import shown

Choice = str | Mapping[str, Any]
GROUPS = ("attention", "backbone", "protocol", "dataset")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows of a table of specs that a choice names, and the columns in which others may differ."""

    rows: pd.DataFrame
    free: frozenset[str]


def choose(table: pd.DataFrame, choice: Choice) -> Chosen:
    """The specs that a choice names.

    Args:
        table: from `scores.spec_rows`.

    Raises:
        LabError: an unknown label, key, column or value; the beginning of several keys.
    """
    if isinstance(choice, str):
        rows = table[table["attention"] == choice]
        if len(rows):
            return Chosen(rows, _freed(table, ["attention"]))
        return Chosen(_by_key(table, choice), frozenset(described(table)) - {"dataset"})
    if not isinstance(choice, Mapping) or not choice:
        raise LabError(f"{shown(choice)} names no spec; give a label, or columns with values")
    rows, columns = table, [c for c in table if c in GROUPS or "." in str(c)]
    for column, value in choice.items():
        if column not in columns:
            raise unknown("column", column, map(str, columns))
        matching = rows[[_is(cell, value) for cell in rows[column]]]
        if matching.empty:
            present = [str(cell) for cell in rows[column].drop_duplicates()]
            raise unknown(column, str(value), present)
        rows = matching
    return Chosen(rows, _freed(table, [c for c in choice if c != "dataset"]))


def names(one: pd.Series, two: pd.Series) -> tuple[str, str]:
    """Names of two specs: their labels, and the other values in which the two differ."""
    first, second = [str(one["attention"])], [str(two["attention"])]
    for group in GROUPS:
        columns = [group] if group != "attention" else []
        if str(one[group]) == str(two[group]):
            columns = [c for c in one.index if str(c).startswith(f"{group}.")]
        targets = [c for c in columns if str(c).endswith("._target_") and not _is(one[c], two[c])]
        for column in targets or columns:
            if not _is(one[column], two[column]) and not _is_digest(column):
                first.append(_value(column, one[column]))
                second.append(_value(column, two[column]))
    return " · ".join(first), " · ".join(second)


def _value(column: str, value: Any) -> str:
    leaf = column.split(".")[-1]
    if is_absent(value):
        text = "none"
    else:
        text = f"{value:g}" if isinstance(value, int | float) else str(value)
    if leaf == "_target_":
        return text.split(".")[-1]
    return text if column in GROUPS else f"{leaf} {text}"


def _is_digest(column: str) -> bool:
    return column.split(".")[-1].endswith("digest")


def described(table: pd.DataFrame) -> list[str]:
    """The columns in which two specs can differ, without digests. A digest follows from other
    columns; only a data set's does not, and `uncertainty.photo_sets` compares that one."""
    return [c for c in map(str, table) if c in GROUPS or ("." in c and not _is_digest(c))]


def _freed(table: pd.DataFrame, columns: Sequence[str]) -> frozenset[str]:
    """``columns``, the columns below them, and the columns of names that change with them."""
    free = set()
    for column in columns:
        stem = column.removesuffix("._target_")
        free |= {c for c in map(str, table) if c == stem or c.startswith(f"{stem}.")}
        group = column.split(".")[0]
        free |= {group} if group != "dataset" else set()
    return frozenset(free)


def keys_of(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return [
        tuple(None if is_absent(value) else value for value in row)
        for row in rows[list(columns)].itertuples(index=False, name=None)
    ]


def is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _is(value: Any, expected: Any) -> bool:
    """Whether a column's value is the expected one: numbers by value, a target also by its last
    name, lists by their JSON."""
    if is_absent(value) or is_absent(expected):
        return is_absent(value) and is_absent(expected)
    if isinstance(value, str):
        text = expected if isinstance(expected, str) else json.dumps(expected)
        return value == text or value.endswith(f".{text}")
    return bool(value == expected)


def said(choice: Choice) -> str:
    if isinstance(choice, str):
        return f"'{choice}'"
    return ", ".join(f"{column}={value}" for column, value in choice.items())


def _by_key(table: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = table[[bool(name) and (s.startswith(name) or name.startswith(s)) for s in table["spec"]]]
    if len(rows) > 1:
        raise LabError(f"spec key '{name}' begins several keys: {', '.join(rows['spec'])}")
    if not len(rows):
        names = [*table["attention"], *table["spec"]]
        raise unknown("attention label or spec", name, dict.fromkeys(names))
    return rows

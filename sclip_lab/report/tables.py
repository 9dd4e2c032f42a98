"""Tables of a results DataFrame: numbers as fractions in DataFrames, x100 where they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.report import escaping
from sclip_lab.report.evidence import Evidence
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS

BOLD = (
    "mIoU x100; bold: the best of its data set, and what is not surely below it; not bold: surely "
    "below it (Holm, 5 %)"
)
ORACLES = "oracle: reads ground truth, so its score is of no method and has no rank"
NO_INTERVAL = (
    "no interval where a score lies outside that of the classes that the photos show, or where all "
    "photos say the same"
)
BOUNDS: dict[str, Any] = {"intervals": {"95 % interval": ("low", "high")}}
PLAIN = ("rho", "seconds")  # columns that are no fractions
SIGNED = ("difference", "gain")  # columns whose names begin like this show their sign
P = "p"  # the column of p-values


def cells(evidence: Evidence) -> pd.DataFrame:
    """One row per cell: variant, backbone and data set where they vary, also (its other names, if
    any cell has some), mIoU, low, high (fractions)."""
    table = evidence.summary
    shown = pd.DataFrame({"variant": evidence.cells["name"].to_list()})
    for column, name in (("backbone", "backbone"), ("dataset", "data set")):
        if table[column].nunique() > 1:
            shown[name] = table[column].astype(str).to_list()
    other = table.attrs.get("also", {})
    if any(str(spec) in other for spec in table["spec"]):
        shown["also"] = ["; ".join(other.get(str(spec), ())) for spec in table["spec"]]
    shown["mIoU"] = table["miou"].to_numpy(float)
    shown["low"], shown["high"] = table["low"].to_numpy(float), table["high"].to_numpy(float)
    return captioned(shown, caption(table), bold={"mIoU": is_bold(table).to_list()}, **BOUNDS)


def captioned(rows: Any, caption: str, **attrs: Any) -> pd.DataFrame:
    """A table with a caption, and with ``attrs`` that `texts` and `page.html` read."""
    table = pd.DataFrame(rows)
    table.attrs.update(attrs, caption=caption)
    return table


def is_bold(table: pd.DataFrame) -> pd.Series:
    """Which mIoU of a `results.summary` is printed bold: the best and what is not surely below it.
    On fewer than `FEWEST_PHOTOS` photos none is, and no oracle's ever is."""
    return table["unbeaten"].astype(bool) & (table["images"] >= FEWEST_PHOTOS) & ~table["oracle"]


def caption(table: pd.DataFrame) -> str:
    """What a table of scores has to say of itself: what bold means, which rows are oracles, and why
    an interval is missing. ``table`` is a `results.summary`, or rows of it."""
    words = [BOLD if is_bold(table).any() else "mIoU x100"]
    if table["oracle"].any():
        words.append(ORACLES)
    few = table["images"] < FEWEST_PHOTOS
    counts = dict.fromkeys(zip(table["images"][few], table["of"][few], strict=True))
    words += [
        f"{photos} of {of} photos: no interval and no comparison below {FEWEST_PHOTOS}"
        for photos, of in counts
    ]
    if (table["low"].isna() & table["miou"].notna() & ~few).any():
        words.append(NO_INTERVAL)
    return "; ".join(words)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown, its cells escaped."""
    lines = [columns, *([escaping.markdown(cell) for cell in row] for row in rows)]
    head, *body = (f"| {' | '.join(line)} |\n" for line in lines)
    return "".join([head, "|---" * len(columns) + "|\n", *body])


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its numbers as texts to read.

    Column `P` holds p-values. Floats of columns in ``table.attrs["plain"]`` get three digits; all
    others are fractions, which get x100 and one decimal, and differences a sign. Two columns of
    bounds become one, as ``table.attrs["intervals"]`` says: name of the one -> names of the two.
    """
    starts = {low: (name, high) for name, (low, high) in table.attrs.get("intervals", {}).items()}
    ends = {high for _, high in starts.values()}
    plain, sign, shown = table.attrs.get("plain", PLAIN), "", {}
    for name in map(str, table):
        if name in starts:  # bounds get a sign if the column before them got one
            title, high = starts[name]
            bounds = zip(table[name], table[high], strict=True)
            shown[title] = ["" if np.isnan(low) else
                            f"{100 * low:{sign}.1f} to {100 * end:{sign}.1f}"
                            for low, end in bounds]  # fmt: skip
        elif not pd.api.types.is_float_dtype(table[name].dtype):
            shown[name] = ["" if pd.isna(v) else escaping.one_line(str(v)) for v in table[name]]
        elif name == P:
            shown[name] = [p_value(value) for value in table[name]]
        elif name not in ends:
            sign = "+" if name.startswith(SIGNED) else ""
            factor, pattern = (1, "#.3g") if name in plain else (100, f"{sign}.1f")
            shown[name] = [
                "" if np.isnan(value) else f"{factor * value:{pattern}}" for value in table[name]
            ]
    return pd.DataFrame(shown, dtype=str)


def p_value(value: float) -> str:
    """A p as tables print it: "< 0.001" or three decimals; "" for NaN."""
    return "" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

"""Tables of a results DataFrame: numbers as fractions in DataFrames, x100 in markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.report import escaping
from sclip_lab.report.evidence import Evidence
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS
from sclip_lab.results.store.spec_labels import labels

SETTING = ["backbone", "dataset", "protocol"]
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
SIGNED = ("difference", "gain")  # beginnings of columns that show their sign
P = {
    "p": "p",
    "p_permutation": "p, permutation",
    "p_holm": "p, Holm",
    "p_max_t": "p, max-T",
    "p_bh": "p, Benjamini-Hochberg",
}


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
    """A table with what a page says of it; ``attrs`` as in `texts` and `page.html`."""
    table = pd.DataFrame(rows)
    table.attrs.update(attrs, caption=caption)
    return table


def is_bold(table: pd.DataFrame) -> pd.Series:
    """Which mIoU of a `results.summary` is printed bold: the best and what is not surely below it.
    None on so few photos that nothing can be sure, and no oracle's."""
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


def to_markdown(table: pd.DataFrame, bold: bool = True) -> str:
    """Markdown of `results.summary` or `results.differences`, one table per data set, x100.

    Args:
        bold: mark every mIoU that the best does not beat (`results.summary`).
    """
    parts = []
    level = f"{table.attrs.get('level', 0.95) * 100:g} % interval"
    for dataset, group in table.groupby("dataset", observed=True, sort=False):
        shared = [str(group[c].iloc[0]) for c in SETTING if c in group and group[c].nunique() == 1]
        cells = _differences(group) if "difference" in group else _scores(group)
        cells.attrs["intervals"] = {level: ("low", "high")}
        cells = texts(cells, "[{}, {}]")
        if "difference" not in group:
            images, of = group[["images", "of"]].iloc[0]
            shared.append(f"{images} images" if images == of else f"{images} of {of} images")
            if bold and len(group) > 1:
                marked = zip(cells["mIoU"], is_bold(group), strict=True)
                cells["mIoU"] = [f"**{text}**" if best else text for text, best in marked]
        caption = f"{', '.join(shared or [str(dataset)])}; scores x100"
        text = markdown(list(map(str, cells)), cells.to_numpy(), numbers=True)
        parts.append(f"{escaping.markdown(caption)}\n\n{text}")
    return "\n".join(parts)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """A table in markdown, its cells escaped; aligned to the right behind the first column where
    the others are ``numbers``."""
    lines = [columns, *([escaping.markdown(cell) for cell in row] for row in rows)]
    head, *body = (f"| {' | '.join(line)} |\n" for line in lines)
    rule = "| --- " + "| ---: " * (len(columns) - 1) if numbers else "|---" * len(columns)
    return "".join([head, f"{rule}|\n", *body])


def _scores(group: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "attention": labels(group),
            "mIoU": group["miou"].to_numpy(float),
            **{name: group[name].to_numpy(float) for name in ("low", "high")},
            "pixel accuracy": group["pixel_accuracy"].to_numpy(float),
        }
    )


def _differences(group: pd.DataFrame) -> pd.DataFrame:
    varying = [c for c in ("backbone", "protocol") if group[c].nunique() > 1]
    return pd.DataFrame(
        {
            "a - b": [f"{a} - {b}" for a, b in zip(group["a"], group["b"], strict=True)],
            **{name: group[name].astype(str).to_list() for name in varying},
            "difference in mIoU": group["difference"].to_numpy(float),
            **{name: group[name].to_numpy(float) for name in ("low", "high")},
            **{P[name]: group[name].to_numpy(float) for name in P if name in group},
        }
    )


def texts(table: pd.DataFrame, interval: str = "{} to {}") -> pd.DataFrame:
    """Numbers as a reader wants them: columns of text.

    Columns of `P` are p-values. Other floats are fractions and shown x100 with one decimal,
    differences with their sign, except in columns named in ``table.attrs["plain"]``. Two columns of
    bounds become one, as ``table.attrs["intervals"]`` says: name -> bounds.

    Args:
        interval: how an interval is written.
    """
    starts = {low: (name, high) for name, (low, high) in table.attrs.get("intervals", {}).items()}
    ends = {high for _, high in starts.values()}
    plain, sign, shown = table.attrs.get("plain", PLAIN), "", {}
    for name in map(str, table):
        if name in starts:  # with the sign of what they are the bounds of
            title, high = starts[name]
            bounds = zip(table[name], table[high], strict=True)
            shown[title] = ["" if np.isnan(low) else
                            interval.format(f"{100 * low:{sign}.1f}", f"{100 * end:{sign}.1f}")
                            for low, end in bounds]  # fmt: skip
        elif not pd.api.types.is_float_dtype(table[name].dtype):
            shown[name] = ["" if pd.isna(v) else escaping.one_line(str(v)) for v in table[name]]
        elif name in P.values():
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

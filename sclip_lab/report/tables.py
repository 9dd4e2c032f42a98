"""Tables of a results DataFrame: numbers as fractions in DataFrames, x100 in markdown."""

from __future__ import annotations

from collections.abc import Callable

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
INTERVAL = "95 % interval"
P = {
    "p": "p",
    "p_permutation": "p, permutation",
    "p_holm": "p, Holm",
    "p_max_t": "p, max-T",
    "p_bh": "p, Benjamini-Hochberg",
}


def cells(evidence: Evidence) -> pd.DataFrame:
    """One row per cell: variant, backbone and data set where they vary, also (its other names, if
    any cell has some), mIoU, low, high (fractions).

    ``attrs`` says how a page shows it: caption, bold entries, and which columns are an interval.
    """
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
    shown.attrs = {
        "caption": caption(table),
        "bold": {"mIoU": bold(table).to_list()},
        "intervals": {INTERVAL: ("low", "high")},
    }
    return shown


def bold(table: pd.DataFrame) -> pd.Series:
    """Which mIoU of a `results.summary` is printed bold: the best and what is not surely below it.
    None on so few photos that nothing can be sure, and no oracle's."""
    return table["unbeaten"].astype(bool) & (table["images"] >= FEWEST_PHOTOS) & ~table["oracle"]


def caption(table: pd.DataFrame) -> str:
    """What a table of scores has to say of itself: what bold means, which rows are oracles, and why
    an interval is missing.

    Args:
        table: a `results.summary`, or rows of it.
    """
    words = [BOLD if bold(table).any() else "mIoU x100"]
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
    for caption, cells in _shown(table, (lambda text: f"**{text}**") if bold else None):
        cells = cells.map(escaping.markdown)
        rule = ["---"] + ["---:"] * (cells.shape[1] - 1)
        rows: list[list[str]] = [list(map(str, cells)), rule, *cells.to_numpy().tolist()]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("\n".join([escaping.markdown(caption), "", *lines]))
    return "\n\n".join(parts) + "\n"


def _shown(
    table: pd.DataFrame, emphasis: Callable[[str], str] | None
) -> list[tuple[str, pd.DataFrame]]:
    """Per data set a caption, which says what all rows share, and the cells as text."""
    shown = []
    level = f"{table.attrs.get('level', 0.95) * 100:g} % interval"
    for dataset, group in table.groupby("dataset", observed=True, sort=False):
        shared = [str(group[c].iloc[0]) for c in SETTING if c in group and group[c].nunique() == 1]
        if "difference" in group:
            cells = _difference_cells(group, level)
        else:
            images, of = group[["images", "of"]].iloc[0]
            shared.append(f"{images} images" if images == of else f"{images} of {of} images")
            cells = _score_cells(group, level)
            if emphasis is not None and len(group) > 1:
                marked = zip(cells["mIoU"], bold(group), strict=True)
                cells["mIoU"] = [emphasis(text) if best else text for text, best in marked]
        shown.append((f"{', '.join(shared or [str(dataset)])}; scores x100", cells))
    return shown


def p_value(value: float) -> str:
    """A p as tables print it: "< 0.001" or three decimals; "" for NaN."""
    return "" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _percent(value: float, sign: str = "") -> str:
    return "" if np.isnan(value) else f"{value * 100:{sign}.1f}"


def _interval(group: pd.DataFrame, sign: str = "") -> list[str]:
    pairs = zip(group["low"], group["high"], strict=True)
    return [
        "" if np.isnan(low) else f"[{_percent(low, sign)}, {_percent(high, sign)}]"
        for low, high in pairs
    ]


def _score_cells(group: pd.DataFrame, level: str) -> pd.DataFrame:
    cells = {
        "attention": labels(group),
        "mIoU": [_percent(value) for value in group["miou"]],
        level: _interval(group),
        "pixel accuracy": [_percent(value) for value in group["pixel_accuracy"]],
    }
    if "published" in group and group["published"].notna().any():
        cells["published"] = [_percent(value) for value in group["published"]]
        facts = group[["published_protocol", "source", "mark"]].itertuples(index=False)
        cells["protocol; source [mark]"] = [
            f"{protocol}; {source.replace(';', ', ')} [{mark}]" if mark else ""
            for protocol, source, mark in facts
        ]
    return pd.DataFrame(cells)


def _difference_cells(group: pd.DataFrame, level: str) -> pd.DataFrame:
    varying = [c for c in ("backbone", "protocol") if group[c].nunique() > 1]
    return pd.DataFrame(
        {
            "a - b": [f"{a} - {b}" for a, b in zip(group["a"], group["b"], strict=True)],
            **{name: group[name].astype(str).to_list() for name in varying},
            "difference in mIoU": [_percent(value, "+") for value in group["difference"]],
            level: _interval(group, "+"),
            **{
                shown: [p_value(p) for p in group[name]]
                for name, shown in P.items()
                if name in group
            },
        }
    )

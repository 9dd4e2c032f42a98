"""Scores of a study beside published numbers, each with its kind of source."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sclip_lab.report.found import Found
from sclip_lab.results.table import published as numbers

REFERENCE = {"dataset": "voc21", "backbone": "ViT-B-16"}
BOLD = "mIoU x100; bold: what the best of its data set does not surely beat (Holm)"
NOTE = (
    "published: the number of the same variant, network and data set; where there is none, the one "
    "of ViT-B/16 on VOC21, which is no target for the score beside it"
)


def scores(found: Found) -> pd.DataFrame:
    """One row per cell: ours with its interval, published number, kind of source, difference.

    Columns: variant, backbone, data set, protocol (those that vary), ours, interval low, interval
    high, published, published on, source, difference, verdict: "agrees" where the published number
    lies in the interval, else "above" or "below" it; empty where the published number is of
    another network or data set. Scores are fractions.
    """
    table = numbers.beside(found.summary, numbers.read())
    cells = found.cells.loc[table["spec"].astype(str).to_list()]
    shown = pd.DataFrame({"variant": cells["name"].to_list()})
    for column, name in (("backbone", "backbone"), ("dataset", "data set")):
        if table[column].nunique() > 1:
            shown[name] = table[column].astype(str).to_list()
    shown["mIoU"] = table["miou"].to_numpy(float)
    shown["95 % interval"] = [
        f"{100 * low:.1f} to {100 * high:.1f}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    plain = [_as_published(row) for _, row in cells.iterrows()]
    elsewhere = [
        reference(str(label)) if same else None
        for label, same in zip(table["attention"], plain, strict=True)
    ]
    own = table["published"].notna() & np.array(plain)
    published, on, kinds, differences, verdicts = [], [], [], [], []
    for has, other, (_, row) in zip(own, elsewhere, table.iterrows(), strict=True):
        value = row["published"] if has else np.nan if other is None else other["value"]
        source = row if has else other
        published.append(value)
        on.append("" if source is None else row["dataset"] if has else REFERENCE["dataset"])
        kinds.append("" if source is None else numbers.kind(source["source"], source["mark"]))
        differences.append(row["miou"] - row["published"] if has else np.nan)
        inside = "agrees" if row["low"] <= value <= row["high"] else ""
        verdicts.append(inside or ("above" if row["miou"] > value else "below") if has else "")
    if not np.isnan(published).all():
        shown["published"], shown["published on"], shown["source"] = published, on, kinds
        if own.any():
            shown["difference"], shown["verdict"] = differences, verdicts
        shown.attrs["caption"] = f"{BOLD}; {NOTE}"
    else:
        shown.attrs["caption"] = BOLD
    shown.attrs["bold"] = {"mIoU": table["unbeaten"].to_list()}
    return shown


def _as_published(cell: pd.Series) -> bool:
    """Whether nothing but attention was changed: no refinement, readout or view of a cell's own."""
    parts = ("refinement", "readout", "views")
    return not any(
        str(name).startswith(tuple(f"protocol.{part}." for part in parts))
        and value == value
        and value is not None
        for name, value in cell.items()
    )


def described(number: pd.Series) -> str:
    """A published number's score and kind of source, as a picture prints them."""
    kind = numbers.kind(str(number["source"]), str(number["mark"]))
    return f"{100 * float(number['value']):.1f} on {str(number['dataset']).upper()}, {kind}"


def reference(label: str) -> pd.Series | None:
    """The published number of ViT-B/16 on VOC21 by the SCLIP paper's variants."""
    table = numbers.read()
    same = table[
        (table["attention"] == label)
        & (table["dataset"] == REFERENCE["dataset"])
        & (table["backbone"] == REFERENCE["backbone"])
        & (table["metric"] == "miou")
        & table["protocol"].isin([numbers.OWN_PROTOCOL, "sclip"])
    ]
    if same.empty:
        return None
    first = same.sort_values("mark", key=lambda marks: marks != "F", kind="stable")
    return first.iloc[0]

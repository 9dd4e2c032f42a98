"""Any store, or a selection of it, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from sclip_lab import results
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.report import figures, measured, published
from sclip_lab.report.figure import Figure, paged
from sclip_lab.report.found import Found
from sclip_lab.report.page import Section
from sclip_lab.report.pictures import class_colors
from sclip_lab.report.tables import P
from sclip_lab.results.store import panels
from sclip_lab.results.store.panels import Panel

SHEET = 8  # variants on one sheet of attention maps
PANEL = 22  # variants beside photo and truth on one sheet
ACROSS, LINE = 8, 1.5  # pictures side by side, and inches from one line of them to the next
USUAL = "vanilla"


def select(store: Path, where: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Keys of the cells that fit; None for all.

    Args:
        store: the folder.
        where: column of `results.specs` -> patterns such as ``csa*``, one of which has to fit.

    Raises:
        LabError: an unknown column, a pattern that fits nothing (did you mean), or no cell left.
    """
    if not where:
        return None
    table = results.specs(store)
    for column, patterns in where.items():
        if column not in table:
            raise unknown("column", column, map(str, table.columns))
        values = table[column].astype(str)
        for pattern in patterns:
            if not any(fnmatchcase(value, pattern) for value in values):
                raise unknown(column, pattern, values.unique())
        fits = [any(fnmatchcase(value, p) for p in patterns) for value in values]
        table = table[fits]
    if table.empty:
        raise LabError(f"no cell of {store} fits all of {', '.join(where)}")
    return table["key"].to_list()


def found(store: Path, where: Mapping[str, Sequence[str]] | None = None) -> Found:
    """What a store has of a selection."""
    keys = select(store, where or {})
    return Found(
        results.load(store, keys), results.diagnostics(store, keys), panels.load(store, keys)
    )


def sections(part: Found, baseline: str | None = None, images: int = 4) -> list[Section]:
    """Scores, differences to a baseline, curves, diagnostics and pictures.

    Args:
        part: the cells. baseline: a label; None: vanilla where it is among them.
        images: photos in pictures.

    Raises:
        LabError: an unknown baseline (did you mean).
    """
    made = [_scores(part)]
    labels = set(part.df["attention"].astype(str))
    if baseline is not None or (USUAL in labels and part.df["spec"].nunique() > 1):
        made.append(_differences(part, baseline or USUAL))
    curves: dict[str, Figure] = {}
    for parameter in figures.swept(part.df):
        log = parameter.endswith("temperature")
        curves[f"curve_{parameter}"] = figures.curve(part.df, parameter, log, table=part.summary)
    if curves:
        made.append(Section("curves", "curves", figures=curves))
    if len(part.measured):
        drawn = paged("diagnostics", measured.pages(part.measured))
        made.append(Section("diagnostics", "diagnostics", figures=drawn))
    pictures = _pictures(part, images)
    if pictures:
        made.append(Section("pictures", "photos", figures=pictures))
    return made


def _scores(part: Found) -> Section:
    drawn = paged("bars", figures.bar_pages(part.summary))
    drawn |= paged("per_class", figures.per_class_pages(part.df, part.summary))
    return Section("scores", "scores", tables={"scores": published.scores(part)}, figures=drawn)


def _differences(part: Found, baseline: str) -> Section:
    table = results.differences(part.df, baseline)
    shown = pd.DataFrame(
        {
            "compared": [
                f"{part.name(a)} against {part.name(b)}"
                for a, b in zip(table["spec_a"], table["spec_b"], strict=True)
            ],
            "data set": table["dataset"].astype(str),
            "difference": table["difference"].to_numpy(float),
            "95 % interval": [
                f"{100 * low:+.1f} to {100 * high:+.1f}"
                for low, high in zip(table["low"], table["high"], strict=True)
            ],
        }
    )
    for column in ("p", "p_holm", "p_permutation"):
        if column in table:
            shown[P[column]] = table[column].to_numpy(float)
    shown.attrs["caption"] = "differences in mIoU x100 on the same photos"
    return Section("differences", f"differences to {baseline}", tables={"differences": shown})


def _pictures(part: Found, images: int) -> Mapping[str, Figure]:
    shown = list(part.panels)[:images]
    if not shown:
        return {}
    with_points = [p for p in shown if any(q.points is not None for q in p.predictions)][:2]
    maps = [figures.attention_maps(page) for page in _sheets(with_points, SHEET)]
    return paged("panel", _panels(shown)) | paged("attention", maps)


def _panels(shown: Sequence[Panel]) -> list[Figure]:
    """As many photos in a picture as a screen can show, all variants of a photo together."""
    drawn, colors = [], class_colors(shown)
    for sheet in _sheets(shown, PANEL):
        lines = -(-(max(len(p.predictions) for p in sheet) + 2) // ACROSS)
        photos = max(1, int(figures.TALL / (LINE * lines)))
        starts = range(0, len(sheet), photos)
        drawn += [
            figures.panel(sheet[start : start + photos], ACROSS, colors=colors) for start in starts
        ]
    return drawn


def _sheets(shown: Sequence[Panel], variants: int) -> list[list[Panel]]:
    """The same photos with so many variants at a time."""
    longest = max((len(p.predictions) for p in shown), default=0)
    sheets = [
        [replace(p, predictions=p.predictions[start : start + variants]) for p in shown]
        for start in range(0, longest, variants)
    ]
    return [[p for p in sheet if p.predictions] for sheet in sheets]

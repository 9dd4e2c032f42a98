"""Any store, or a selection of it, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from sclip_lab import results
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.report import curves, escaping, figures, measured, pictures, published
from sclip_lab.report.figures import Figure, paged
from sclip_lab.report.found import Found
from sclip_lab.report.page import Section
from sclip_lab.report.tables import P
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.picture_files import Picture, Prediction
from sclip_lab.results.table.choices import choose
from sclip_lab.results.table.scores import spec_rows

SHEET = 8  # variants on one sheet of attention maps
TILES = 12  # pictures on one sheet of predictions: photo, truth and variants
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
        results.load(store, keys), results.diagnostics(store, keys), picture_files.load(store, keys)
    )


def sections(found: Found, baseline: str | None = None, images: int = 4) -> list[Section]:
    """Scores, differences to a baseline, curves, diagnostics and pictures.

    Cells that were evaluated on different photos (another data set, split or number of photos)
    cannot be compared in pairs, so each set of photos has sections of its own.

    Args:
        found: the cells. baseline: a label; None: vanilla where it is among them.
        images: photos in pictures.

    Raises:
        LabError: an unknown baseline (did you mean), or one that can be compared with nothing.
    """
    if baseline is not None:
        choose(spec_rows(found.df), baseline)
    parts = found.by_photos()
    compared = {name: _differences(part, baseline or USUAL) for name, part in parts.items()
                if baseline or _has_usual(part)}  # fmt: skip
    if baseline is not None and not any(section.tables for section in compared.values()):
        raise LabError(next(iter(compared.values())).notes[0])
    made = []
    for name, part in parts.items():
        of_part = [
            _scores(part),
            *([compared[name]] if name in compared else []),
            *_drawn(part, images),
        ]
        made += of_part if len(parts) == 1 else [_of_photos(section, name) for section in of_part]
    return made


def _has_usual(part: Found) -> bool:
    return USUAL in set(part.df["attention"].astype(str)) and part.df["spec"].nunique() > 1


def _of_photos(section: Section, photos: str) -> Section:
    """A section whose title, anchor and files say which photos it is about."""
    tail = f"_{escaping.file_name(photos)}"
    return replace(
        section,
        name=section.name + tail,
        title=f"{section.title}: {photos}",
        tables={f"{name}{tail}": table for name, table in section.tables.items()},
        figures={f"{name}{tail}": figure for name, figure in section.figures.items()},
    )


def _drawn(part: Found, images: int) -> list[Section]:
    """Sections of figures: curves, diagnostics, pictures."""
    made = []
    swept: dict[str, Figure] = {}
    for parameter in curves.swept(part.df):
        log = parameter.endswith("temperature")
        swept[f"curve_{parameter}"] = curves.curve(part.df, parameter, log, table=part.summary)
    if swept:
        made.append(Section("curves", "curves", figures=swept))
    if len(part.measured):
        drawn = paged("diagnostics", measured.pages(part.measured))
        made.append(Section("diagnostics", "diagnostics", figures=drawn))
    photos = _pictures(part, images)
    if photos:
        made.append(Section("pictures", "photos", figures=photos))
    return made


def _scores(part: Found) -> Section:
    drawn = paged("bars", figures.bar_pages(part.summary))
    drawn |= paged("per_class", figures.per_class_pages(part.df, part.summary))
    return Section("scores", "scores", tables={"scores": published.scores(part)}, figures=drawn)


def _differences(part: Found, baseline: str) -> Section:
    """The table of differences, or a note that says why there is none."""
    title = f"differences to {baseline}"
    try:
        table = results.differences(part.df, baseline)
    except LabError as error:
        return Section("differences", title, notes=[str(error)])
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
    return Section("differences", title, tables={"differences": shown})


def _pictures(part: Found, images: int) -> Mapping[str, Figure]:
    shown = [
        replace(p, predictions=[replace(q, label=_name(part, q)) for q in p.predictions])
        for p in list(part.pictures)[:images]
    ]
    if not shown:
        return {}
    with_points = [p for p in shown if any(q.points is not None for q in p.predictions)][:2]
    maps = [pictures.attention_maps(page) for page in _sheets(with_points, SHEET)]
    return paged("panel", _panels(shown)) | paged("attention", maps)


def _name(part: Found, prediction: Prediction) -> str:
    """A cell's name in pictures is its name in tables, unique among the cells of its photos."""
    known = prediction.spec in part.cells.index
    return part.name(prediction.spec) if known else prediction.label


def _panels(shown: Sequence[Picture]) -> list[Figure]:
    """At most so many tiles in a picture: several photos of few variants, or a part of many."""
    drawn, colors = [], pictures.class_colors(shown)
    for sheet in _sheets(shown, TILES - 2):
        tiles = max(len(panel.predictions) for panel in sheet) + 2
        photos = max(1, TILES // tiles)
        starts = range(0, len(sheet), photos)
        drawn += [pictures.panel(sheet[start : start + photos], colors=colors) for start in starts]
    return drawn


def _sheets(shown: Sequence[Picture], variants: int) -> list[list[Picture]]:
    """The same photos with so many variants at a time."""
    longest = max((len(p.predictions) for p in shown), default=0)
    sheets = [
        [replace(p, predictions=p.predictions[start : start + variants]) for p in shown]
        for start in range(0, longest, variants)
    ]
    return [[p for p in sheet if p.predictions] for sheet in sheets]

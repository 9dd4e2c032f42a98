"""Any store, or a selection of it, as a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab import results
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.report import curves, escaping, figures, pictures, tables
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure, paged
from sclip_lab.report.page import Maker, Section
from sclip_lab.report.tables import P
from sclip_lab.results.statistics.comparisons import with_baseline
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS, interval
from sclip_lab.results.statistics.resampling import Scored
from sclip_lab.results.store import picture_files, sweeps
from sclip_lab.results.store.picture_files import Picture, Prediction
from sclip_lab.results.table.choices import choose, is_absent
from sclip_lab.results.table.scores import NAMES, spec_rows

SHEET = 8  # variants on one sheet of attention maps
TILES = 12  # pictures on one sheet of predictions: photo, truth and variants
USUAL = "vanilla"
ALPHA = 0.05
CLOSE = 3  # so many cells that are not surely below the best are named in `result`


def select(
    store: Path, where: Mapping[str, Sequence[str]], sweep: str | None = None
) -> tuple[list[str] | None, dict[str, dict[str, str]]]:
    """Find the cells of a selection, and the names that the selection uses for them.

    Args:
        store: the folder.
        where: column of `results.specs` -> patterns such as ``csa*``, one of which has to fit. A
            cell of several names fits where one of them does, and is called by that one.
        sweep: only the cells of one sweep, under its names: see `sclip_lab.results.store.sweeps`.

    Returns:
        keys, None for all; and names by key.

    Raises:
        LabError: an unknown sweep or column, a pattern that fits nothing (did you mean), or no cell
            left.
    """
    names: dict[str, dict[str, str]] = {}
    if sweep is not None:
        names = {key: dict(cell) for key, cell in sweeps.find(store, sweep)["cells"].items()}
    if not where:
        return (list(names) if sweep is not None else None), names
    facts = results.specs(store).set_index("key", drop=False)
    keys = [key for key in facts.index if not names or key in names]
    # A row for each name of a cell; in a sweep a cell has one name.
    table = pd.DataFrame(
        [
            {**facts.loc[record["key"]], **cell}
            for record in results.records(store, keys)
            for cell in ([names[record["key"]]] if names else [record["names"], *record["also"]])
        ],
        columns=facts.columns,
    )
    for column, patterns in where.items():
        if column not in table:
            raise unknown("column", column, map(str, table.columns))
        # astype(str) would keep NaN, of a parameter that some cells do not have, as a number.
        values = pd.Series(["none" if is_absent(v) else str(v) for v in table[column]])
        for pattern in patterns:
            if not any(fnmatchcase(value, pattern) for value in values):
                raise unknown(column, pattern, values.unique())
        fits = [any(fnmatchcase(value, p) for p in patterns) for value in values]
        table = table[fits].reset_index(drop=True)
    if table.empty:
        chosen = "; ".join(f"{column}={','.join(patterns)}" for column, patterns in where.items())
        raise LabError(f"no cell of {store} fits all of {chosen}")
    table = table.drop_duplicates("key")
    names = {str(key): {name: str(row[name]) for name in NAMES[1:]}
             for key, row in table.set_index("key").iterrows()}  # fmt: skip
    return list(names), names


def read(
    store: Path, where: Mapping[str, Sequence[str]] | None = None, sweep: str | None = None
) -> Evidence:
    """Read what a store holds of the selected cells (see `select`)."""
    keys, names = select(store, where or {}, sweep)
    df = results.load(store, keys, names=names)
    return Evidence(df, results.diagnostics(store, keys), picture_files.load(store, keys))


def sections(
    part: Evidence,
    baseline: str | None = None,
    images: int = 4,
    scores: Callable[[Evidence], pd.DataFrame] = tables.cells,
) -> list[Section]:
    """Scores, differences to a baseline, curves, diagnostics and pictures.

    Cells that were evaluated on different photos (another data set, split or number of photos)
    cannot be compared in pairs, so each set of photos has sections of its own.

    Args:
        part: the cells. baseline: a label; None: vanilla where it is among them.
        images: photos in pictures.
        scores: makes the table of scores, such as `sclip_lab.paper.published.scores`.

    Raises:
        LabError: an unknown baseline (did you mean), or one that can be compared with nothing.
    """
    if baseline is not None:
        choose(spec_rows(part.df), baseline)
    parts = part.by_photos()
    compared = {
        name: _differences(part, baseline or USUAL)
        for name, part in parts.items()
        if baseline or (USUAL in set(part.df["attention"]) and part.df["spec"].nunique() > 1)
    }
    if baseline is not None and not any(section.tables for section in compared.values()):
        raise LabError(next(iter(compared.values())).notes[0])
    page_sections = []
    for name, part in parts.items():
        of_part = [
            _scores(part, scores),
            *([compared[name]] if name in compared else []),
            *_drawn(part, images),
        ]
        if len(parts) > 1:  # for a single set of photos the page's lead has the result
            of_part[0] = replace(of_part[0], notes=[result(part, name)])
            of_part = [_of_photos(section, name) for section in of_part]
        page_sections += of_part
    return page_sections


def _of_photos(section: Section, photos: str) -> Section:
    """The section with the photos' name added to its title, its anchor and its files."""
    tail = f"_{escaping.file_name(photos)}"
    return replace(
        section,
        name=section.name + tail,
        title=f"{section.title}: {photos}",
        tables={f"{name}{tail}": table for name, table in section.tables.items()},
        makers=[partial(_with_tail, make, tail) for make in section.makers],
    )


def _with_tail(make: Maker, tail: str) -> dict[str, Any]:
    return {f"{name}{tail}": figure for name, figure in make().items()}


def seeds(part: Evidence) -> pd.DataFrame | None:
    """Variants that were evaluated with several seeds and all else equal; None without any.

    Columns: variant, seeds (how many), mIoU (mean over seeds), low, high (interval of the
    mean over photos), sd over seeds (of the scores); fractions.
    """
    rows = []
    names = [str(c) for c in part.summary if str(c).startswith("attention.")]
    for column in (name for name in names if name.endswith("seed")):
        for line in curves.lines_of(part.summary, column):
            specs = set(line["spec"].astype(str))
            (group,) = part.comparisons.only(specs)
            mean = Scored.mean(list(group.values()))
            low, high = interval(mean, 1 - ALPHA)
            scores = [scored.estimate for scored in group.values()]
            rows.append(
                {"variant": str(line["line"].iloc[0]), "seeds": len(specs), "mIoU": mean.estimate}
                | {"low": low, "high": high, "sd over seeds": float(np.std(scores, ddof=1))}
            )
    if not rows:
        return None
    caption = (
        "mIoU x100, mean over seeds; interval of that mean over photos; beside it the standard "
        "deviation over seeds, which no number of photos makes smaller"
    )
    return tables.captioned(rows, caption, **tables.BOUNDS)


def _drawn(part: Evidence, images: int) -> list[Section]:
    """Sections on seeds, curves, diagnostics and photos, without those that would be empty."""
    shown = []
    if (table := seeds(part)) is not None:
        shown.append(Section("seeds", "seeds", tables={"seeds": table}))
    if parameters := curves.swept(part.df):
        charts: list[Maker] = [partial(_curve, part, parameter) for parameter in parameters]
        shown.append(Section("curves", "curves", makers=charts))
    if len(part.measured):
        from sclip_lab.report import diagnostic_charts  # imports torch

        charts = [lambda: paged("diagnostics", diagnostic_charts.pages(part.measured))]
        shown.append(Section("diagnostics", "diagnostics", makers=charts))
    if makers := _pictures(part, images):
        shown.append(Section("pictures", "photos", makers=makers))
    return shown


def _curve(part: Evidence, parameter: str) -> dict[str, Figure]:
    log = parameter.endswith("temperature")
    return {f"curve_{parameter}": curves.curve(part.df, parameter, log, part)}


def _scores(part: Evidence, scores: Callable[[Evidence], pd.DataFrame]) -> Section:
    charts = [
        lambda: paged("bars", figures.bar_pages(part.summary)),
        lambda: paged("per_class", figures.per_class_pages(part.df, part.summary)),
    ]
    return Section("scores", "scores", tables={"scores": scores(part)}, makers=charts)


def result(part: Evidence, place: str = "") -> str:
    """What cells of the same photos show, in a sentence or two; oracles are left out.

    Args:
        part: the cells. place: name of their photos; "": their number and data set are named.
    """
    table = part.summary.assign(name=part.cells["name"].to_list())
    table = table[~table["oracle"].astype(bool)]
    if table.empty:
        return f"All cells read ground truth: oracles{f' on {place}' if place else ''}, not ranked."
    best = table.iloc[int(table["miou"].argmax())]
    others = table.drop(index=best.name)
    photos = int(best["images"])
    text = f"{best['name']} scores {100 * best['miou']:.1f} mIoU x100"
    if not pd.isna(best["low"]):
        text += f" [{100 * best['low']:.1f}, {100 * best['high']:.1f}]"
    count = f"{photos}" if photos == best["of"] else f"{photos} of {best['of']}"
    plural = "s" if best["of"] > 1 else ""
    text += f" on {place}" if place else f" on {count} photo{plural} of {best['dataset']}"
    if others.empty:
        return f"{text}."
    if photos < FEWEST_PHOTOS:
        return f"{text}. On fewer than {FEWEST_PHOTOS} photos nothing is surely below another."
    close = others["name"][others["unbeaten"].astype(bool)].to_list()
    if not close:
        rest = "the other" if len(others) == 1 else f"all {len(others)} others"
        return f"{text}, surely more than {rest}."
    rest = f"; not surely below it: {', '.join(close[:CLOSE])}"
    rest += f" and {len(close) - CLOSE} more" if len(close) > CLOSE else ""
    if len(close) == len(others):
        return f"{text}{rest}."
    return f"{text}, surely more than {len(others) - len(close)} of {len(others)} others{rest}."


def _differences(part: Evidence, baseline: str) -> Section:
    """The table of differences, or a note that says why there is none."""
    title = f"differences to {baseline}"
    try:
        pairs, _ = with_baseline(part.df, baseline)
    except LabError as error:
        return Section("differences", title, notes=[str(error)])
    count = len(pairs)
    # Intervals and p are adjusted alike, so p is below 5 % exactly where its interval excludes 0.
    table = part.comparisons.of(pairs, 1 - ALPHA / count)
    columns = {
        "compared": [f"{part.name(a)} against {part.name(b)}" for a, b in pairs],
        **{name: table[name].to_numpy(float) for name in ("difference", "low", "high")},
        P: np.minimum(1, count * table["p"].to_numpy(float)),
    }
    together = "" if count == 1 else f"; intervals and p for all {count} together (Bonferroni)"
    if table["low"].isna().all():
        together = f"; no interval and no p on fewer than {FEWEST_PHOTOS} photos"
    caption = f"differences in mIoU x100 on the same photos{together}"
    shown = tables.captioned(columns, caption, **tables.BOUNDS)
    return Section("differences", title, tables={"differences": shown})


def _pictures(part: Evidence, images: int) -> list[Maker]:
    """Functions, each of which makes one figure of photos."""
    shown = [
        replace(p, predictions=[replace(q, label=_name(part, q)) for q in p.predictions])
        for p in list(part.pictures)[:images]
    ]
    with_points = [p for p in shown if any(q.points is not None for q in p.predictions)][:2]
    colors = pictures.class_colors(shown)
    panels = paged("panel", _panels(shown)).items()
    maps = paged("attention", _sheets(with_points, SHEET)).items()
    return [
        *(lambda n=name, p=page: {n: pictures.panel(p, colors=colors)} for name, page in panels),
        *(lambda n=name, p=page: {n: pictures.attention_maps(p)} for name, page in maps),
    ]


def _name(part: Evidence, prediction: Prediction) -> str:
    """A cell's name in tables, unique among the cells of its photos; else the picture's label."""
    is_scored = prediction.spec in part.cells.index
    return part.name(prediction.spec) if is_scored else prediction.label


def _panels(shown: Sequence[Picture]) -> list[list[Picture]]:
    """Pictures by figure, at most `TILES` tiles each: several photos with few variants, or photos
    with a part of their many variants."""
    pages = []
    for sheet in _sheets(shown, TILES - 2):
        tiles = max(len(panel.predictions) for panel in sheet) + 2
        photos = max(1, TILES // tiles)
        pages += [sheet[start : start + photos] for start in range(0, len(sheet), photos)]
    return pages


def _sheets(shown: Sequence[Picture], variants: int) -> list[list[Picture]]:
    """Sheets, each with all photos and at most ``variants`` of their predictions."""
    longest = max((len(p.predictions) for p in shown), default=0)
    sheets = [
        [replace(p, predictions=p.predictions[start : start + variants]) for p in shown]
        for start in range(0, longest, variants)
    ]
    return [[p for p in sheet if p.predictions] for sheet in sheets]

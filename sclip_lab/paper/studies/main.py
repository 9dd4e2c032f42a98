"""Vanilla, MaskCLIP and CSA over the benchmarks, with and without PAMR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from sclip_lab.paper import published
from sclip_lab.paper.claims import Claim, higher
from sclip_lab.paper.studies import Study
from sclip_lab.report import figures as charts
from sclip_lab.report import tables
from sclip_lab.report.curves import pick
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure, paged
from sclip_lab.report.gains import per_class, per_size


def _cell(evidence: Evidence, variant: str, refined: bool) -> str | None:
    table = pick(evidence, variant=variant)
    table = table[[_refined(row) == refined for _, row in table.iterrows()]]
    return str(table.index[0]) if len(table) else None


def _refined(row: pd.Series) -> bool:
    target = row.get("protocol.refinement._target_")
    return isinstance(target, str)


def _claims(evidence: Evidence) -> list[Claim]:
    claims = []
    for dataset in evidence.df["dataset"].astype(str).unique():
        part = evidence.only(dataset=dataset)
        vanilla, maskclip, csa = (_cell(part, v, False) for v in ("vanilla", "maskclip", "csa"))
        pairs = [
            ("CSA is better than vanilla attention", csa, vanilla),
            ("CSA is better than MaskCLIP", csa, maskclip),
            ("MaskCLIP is better than vanilla attention", maskclip, vanilla),
            ("Refinement by PAMR improves CSA", _cell(part, "csa", True), csa),
        ]
        claims += [
            replace(higher(part, a, b, text, published="1.2"), setting=dataset)
            for text, a, b in pairs
        ]
    return claims


def wide(evidence: Evidence) -> pd.DataFrame:
    """Methods by data sets with their average: the paper's main table."""
    cells = evidence.cells
    method = [
        f"{row['attention']}{' + PAMR' if _refined(row) else ''}" for _, row in cells.iterrows()
    ]
    dataset = cells["dataset"].astype(str)
    table = cells.assign(method=method, dataset=dataset, bold=tables.is_bold(cells))
    grid, is_bold = (
        table.pivot_table(
            index="method", columns="dataset", values=name, sort=False, aggfunc="first"
        ).rename_axis(None, axis=1)
        for name in ("miou", "bold")
    )
    bold = {str(name): is_bold[name].eq(True).to_list() for name in is_bold}
    grid = grid.astype(float)
    if grid.shape[1] > 1:
        grid["average"] = grid.mean(axis=1, skipna=False)
    grid = grid.reset_index()
    grid.attrs = {"caption": tables.caption(cells), "bold": bold}
    return grid


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    shown = {"main": wide(evidence), "main_published": published.scores(evidence)}
    for dataset, classes, sizes in _gains(evidence):
        shown[f"main_gain_per_class_{dataset}"] = classes
        if len(sizes):
            shown[f"main_gain_per_size_{dataset}"] = sizes
    return shown


def _gains(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yield each data set with what CSA gains over vanilla by class, and by size of regions."""
    for dataset in evidence.df["dataset"].astype(str).unique():
        part = evidence.only(dataset=dataset)
        csa, vanilla = _cell(part, "csa", False), _cell(part, "vanilla", False)
        if csa and vanilla:
            yield dataset, per_class(part, csa, vanilla), per_size(part, csa, vanilla)


def _figures(evidence: Evidence) -> Mapping[str, Figure]:
    classes = charts.per_class_pages(evidence.df, evidence.summary)
    return paged("main_bars", charts.bar_pages(evidence.summary)) | paged("main_per_class", classes)


def _largest_gains(evidence: Evidence) -> str:
    lines = []
    for dataset, classes, sizes in _gains(evidence):
        first, last = classes.iloc[0], classes.iloc[-1]
        text = (
            f"{dataset}: most on {first['class']} ({100 * first['gain']:+.1f} IoU), least on "
            f"{last['class']} ({100 * last['gain']:+.1f})"
        )
        if len(sizes):
            top = sizes.sort_values("gain").iloc[-1]
            text += f", and most where a class covers {top['class covers']}"
        lines.append(f"{text}.")
    return " ".join(lines)


STUDY = Study(
    question="Is correlative self-attention better than vanilla attention and than attention to "
    "self, on which data sets, classes and sizes of regions, and does refinement change that?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    answers={"gains": _largest_gains},
    across=("dataset",),
    order=0,
)

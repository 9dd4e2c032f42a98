"""CSA on ViTs that never saw text, read out by class prototypes from the masks of other photos."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.studies import Study
from sclip_lab.report import published
from sclip_lab.report.curves import pick, spec
from sclip_lab.report.figures import grouped
from sclip_lab.report.found import Found
from sclip_lab.report.verdicts import OPEN, Verdict, higher

VARIANTS = ("vanilla", "maskclip", "csa")


def _grid(found: Found) -> dict[str, dict[str, str]]:
    """Backbone, with the source of its weights where they are random -> variant -> spec."""
    grid = {}
    for backbone in found.df["backbone"].astype(str).unique():
        part = found.only(backbone=backbone)
        cells = {name: spec(part, variant=name) for name in VARIANTS}
        name = backbone if _seed(part) is None else f"{backbone}\nrandom weights"
        grid[name] = {name: key for name, key in cells.items() if key}
    return grid


def _seed(found: Found) -> object:
    """The seed of random weights; None where weights were trained."""
    seeds = pick(found).get("backbone.seed")
    return None if seeds is None or seeds.isna().all() else seeds.dropna().iloc[0]


def _verdicts(found: Found) -> list[Verdict]:
    judged = []
    for backbone, cells in _grid(found).items():
        if not {"vanilla", "csa"} <= set(cells):
            continue
        place = ", ".join(backbone.splitlines())
        claim = f"On {place}, CSA is better than vanilla attention, read out by prototypes"
        verdict = higher(found, cells["csa"], cells["vanilla"], claim)
        seed = _seed(found.of(list(cells.values())))
        if seed is not None:
            why = f"weights are random (seed {seed}), which says nothing of trained ones"
            verdict = Verdict(claim, OPEN, f"{why}: {verdict.why}")
        judged.append(verdict)
    return judged


def _figures(found: Found) -> Mapping[str, Figure]:
    figure = grouped(found, _grid(found))
    figure.set_label("classes read by prototypes from the masks of all other photos")
    return {"other_vits": figure}


def _tables(found: Found) -> dict[str, pd.DataFrame]:
    return {"other_vits": published.scores(found)}


STUDY = Study(
    question="Does CSA help a ViT that never saw text, when classes are read from the masks of "
    "other photos?",
    verdicts=_verdicts,
    figures=_figures,
    tables=_tables,
    across=("backbone",),
    order=12,
)

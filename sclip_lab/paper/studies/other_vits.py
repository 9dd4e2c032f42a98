"""CSA on ViTs that never saw text, read out by class prototypes from the masks of other photos."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, higher, random_seed
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import spec
from sclip_lab.report.figures import grouped
from sclip_lab.report.found import Found

VARIANTS = ("vanilla", "maskclip", "csa")


def _grid(found: Found) -> dict[str, dict[str, str]]:
    """Backbone, with the source of its weights where they are random -> variant -> spec."""
    grid = {}
    for backbone in found.df["backbone"].astype(str).unique():
        part = found.only(backbone=backbone)
        cells = {name: spec(part, variant=name) for name in VARIANTS}
        seeds = [random_seed(part, key) for key in part.cells.index]
        name = backbone if None in seeds else f"{backbone}\nrandom weights"
        grid[name] = {name: key for name, key in cells.items() if key}
    return grid


def _claims(found: Found) -> list[Claim]:
    text = "On {}, CSA is better than vanilla attention, read out by prototypes"
    return [
        higher(found, cells["csa"], cells["vanilla"], text.format(", ".join(backbone.splitlines())))
        for backbone, cells in _grid(found).items()
        if {"vanilla", "csa"} <= set(cells)
    ]


def _figures(found: Found) -> Mapping[str, Figure]:
    figure = grouped(found, _grid(found))
    figure.set_label("classes read by prototypes from the masks of all other photos")
    return {"other_vits": figure}


def _gaining(found: Found) -> str:
    grid = _grid(found)
    trained = {n: c for n, c in grid.items() if "random" not in n and {"csa", "vanilla"} <= set(c)}
    gains = [
        f"{name} {100 * found.difference(cells['csa'], cells['vanilla'])['difference']:+.1f}"
        for name, cells in trained.items()
    ]
    text = f"CSA's gain read out by prototypes: {', '.join(gains)}." if gains else ""
    if len(trained) < len(grid):
        text += (
            " The ViT without text has random weights here and answers nothing: "
            "backbone=timm backbone.name=... checkpoint=<file>."
        )
    return text.strip()


STUDY = Study(
    question="Does CSA help a ViT that never saw text, when classes are read from the masks of "
    "other photos?",
    claims=_claims,
    figures=_figures,
    answers={"vits": _gaining},
    across=("backbone",),
    order=12,
)

"""CSA on networks of several sizes, and what removes its collapse on the large one."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.studies import Study
from sclip_lab.report import published
from sclip_lab.report.curves import spec
from sclip_lab.report.figures import grouped
from sclip_lab.report.found import Found
from sclip_lab.report.verdicts import Verdict, higher, nothing

NAMES = {
    "vanilla": {"variant": "vanilla"},
    "MaskCLIP": {"variant": "maskclip", "attention__residual": True},
    "CSA": {"variant": "csa", "attention__residual": True},
    "CSA, residual and MLP dropped": {"variant": "csa", "attention__residual": False},
    "MaskCLIP, residual and MLP dropped": {"variant": "maskclip", "attention__residual": False},
}
SMALL, LARGE = "ViT-B-16", "ViT-L-14"
NEEDED = (
    "needs ViT-B-16 and ViT-L-14: backbone=ViT-B-16-quickgelu pretrained=openai on a machine that "
    "reaches the weights"
)
DROPPED = "CSA, residual and MLP dropped"


def _grid(found: Found) -> dict[str, dict[str, str]]:
    """Backbone -> variant -> spec."""
    grid: dict[str, dict[str, str]] = {}
    for backbone in found.df["backbone"].astype(str).unique():
        part = found.only(backbone=backbone)
        cells = {name: spec(part, **fixed) for name, fixed in NAMES.items()}  # type: ignore[arg-type]
        grid[backbone] = {name: key for name, key in cells.items() if key}
    return grid


def _verdicts(found: Found) -> list[Verdict]:
    grid, judged = _grid(found), []
    for backbone, cells in grid.items():
        pairs = [
            ("CSA is better than vanilla attention", "CSA", "vanilla"),
            ("dropping residual and MLP improves CSA", "CSA, residual and MLP dropped", "CSA"),
        ]
        for claim, a, b in pairs:
            if a in cells and b in cells:
                judged.append(higher(found, cells[a], cells[b], f"On {backbone} {claim}"))
    small = next((cells for name, cells in grid.items() if name.startswith(SMALL)), None)
    large = next((cells for name, cells in grid.items() if name.startswith(LARGE)), None)
    claims = {
        "CSA collapses on L/14: it is better on B/16": "CSA",
        "CSA without residual and MLP does not collapse: it is better on L/14": DROPPED,
    }
    for claim, name in claims.items():
        if not small or not large or name not in small or name not in large:
            judged.append(nothing(claim, NEEDED, "1.6"))
        elif name == "CSA":
            judged.append(higher(found, small[name], large[name], claim, published="1.6"))
        else:
            judged.append(higher(found, large[name], small[name], claim, published="1.6"))
    return judged


def _figures(found: Found) -> dict[str, Figure]:
    figure = grouped(found, _grid(found))
    figure.set_label("variants by network; residual and MLP dropped in the last block")
    return {"backbones": figure}


def _tables(found: Found) -> dict[str, pd.DataFrame]:
    return {"backbones": published.scores(found)}


STUDY = Study(
    question="Does CSA help networks of every size and kind, why does it collapse on L/14, and "
    "what removes the collapse?",
    verdicts=_verdicts,
    figures=_figures,
    tables=_tables,
    across=("backbone",),
    order=8,
)

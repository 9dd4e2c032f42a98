"""CSA on ViTs that never saw text, read out by class prototypes from the masks of other photos."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, gains_in_words, higher, random_seed
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import by_backbone
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import grouped

VARIANTS = ("vanilla", "maskclip", "csa")


def _grid(evidence: Evidence) -> dict[str, dict[str, str]]:
    """Backbone -> variant -> spec; the name of a backbone with random weights says so."""
    grid = by_backbone(evidence, {name: {"variant": name} for name in VARIANTS})
    is_trained = {name: any(random_seed(evidence, key) is None for key in cells.values())
                  for name, cells in grid.items()}  # fmt: skip
    return {name if is_trained[name] else f"{name}\nrandom weights": cells
            for name, cells in grid.items()}  # fmt: skip


def _claims(evidence: Evidence) -> list[Claim]:
    text = "On {}, CSA is better than vanilla attention, read out by prototypes"
    return [
        higher(
            evidence, cells["csa"], cells["vanilla"], text.format(", ".join(backbone.splitlines()))
        )
        for backbone, cells in _grid(evidence).items()
        if {"vanilla", "csa"} <= set(cells)
    ]


def _figures(evidence: Evidence) -> Mapping[str, Figure]:
    figure = grouped(evidence, _grid(evidence))
    figure.set_label("classes read by prototypes from the masks of all other photos")
    return {"other_vits": figure}


def _gaining(evidence: Evidence) -> str:
    grid = _grid(evidence)
    trained = {name: cells for name, cells in grid.items() if "random" not in name}
    gains = gains_in_words(evidence, trained, "csa")
    text = f"CSA's gain read out by prototypes: {gains}." if gains else ""
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

"""CSA on networks of several sizes, and what removes its collapse on the large one."""

from __future__ import annotations

from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, gains_in_words, higher, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import by_backbone
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import grouped

NAMES: dict[str, dict[str, object]] = {
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


def _grid(evidence: Evidence) -> dict[str, dict[str, str]]:
    """Backbone -> variant -> spec."""
    return by_backbone(evidence, NAMES)


def _claims(evidence: Evidence) -> list[Claim]:
    grid, claims = _grid(evidence), []
    for backbone, cells in grid.items():
        csa, vanilla, dropped = (cells.get(name) for name in ("CSA", "vanilla", DROPPED))
        place = f"On {backbone}"
        claims.append(
            higher(evidence, csa, vanilla, f"{place} CSA is better than vanilla attention")
        )
        claims.append(
            higher(evidence, dropped, csa, f"{place} dropping residual and MLP improves CSA")
        )
    small, large = (
        next((cells for name, cells in grid.items() if name.startswith(size)), {})
        for size in (SMALL, LARGE)
    )
    for text, name, better, other in (
        ("CSA collapses on L/14: it is better on B/16", "CSA", small, large),
        ("CSA without residual and MLP does not collapse: it is better on L/14", DROPPED, large,
         small),
    ):  # fmt: skip
        both = name in small and name in large
        claims.append(
            higher(evidence, better[name], other[name], text, published="1.6")
            if both
            else missing(text, NEEDED, "1.6")
        )
    return claims


def _figures(evidence: Evidence) -> dict[str, Figure]:
    figure = grouped(evidence, _grid(evidence))
    figure.set_label("variants by network; residual and MLP dropped in the last block")
    return {"backbones": figure}


def _foundation_models(evidence: Evidence) -> str:
    gains = gains_in_words(evidence, _grid(evidence), "CSA")
    if not gains:
        return ""
    text = f"CSA's gain over vanilla attention: {gains}."
    return text if "," in gains else f"{text} Other networks are missing: it {NEEDED}."


STUDY = Study(
    question="Does CSA help networks of every size and kind, why does it collapse on L/14, and "
    "what removes the collapse?",
    claims=_claims,
    figures=_figures,
    answers={"foundation": _foundation_models},
    across=("backbone",),
    order=8,
)

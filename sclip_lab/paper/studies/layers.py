"""CSA in the last n blocks, with residual and MLP kept or dropped."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, best, higher
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import curves, number, pick, spec
from sclip_lab.report.evidence import Evidence

KEPT = {
    "residual and MLP kept": (True, True),
    "MLP dropped": (True, False),
    "residual dropped": (False, True),
    "both dropped": (False, False),
}


def _lines(evidence: Evidence) -> dict[str, dict[float, str]]:
    lines = {}
    for name, (residual, mlp) in KEPT.items():
        table = pick(evidence, variant="csa", attention__residual=residual, attention__mlp=mlp)
        layers = table.get("attention.layers", pd.Series(dtype=object))
        places = {number(value): str(key) for key, value in layers.items()}
        lines[name] = dict(sorted(places.items()))
    return {name: places for name, places in lines.items() if places}


def _claims(evidence: Evidence) -> list[Claim]:
    claims, lines = [], _lines(evidence)
    for name, places in lines.items():
        if 1.0 in places and len(places) > 1:
            text = f"CSA in the last block alone is best ({name})"
            usual = name == "residual and MLP kept"
            claims.append(best(evidence, places[1.0], list(places.values()), text,
                               published="1.6" if usual else ""))  # fmt: skip
    ends = ("residual and MLP kept", "both dropped")
    whole, dropped = (lines.get(name, {}).get(1.0) for name in ends)
    bare = spec(evidence, variant="maskclip", attention__residual=False, attention__mlp=False)
    maskclip = spec(evidence, variant="maskclip", attention__residual=True)
    return [
        *claims,
        higher(evidence, dropped, whole,
               "In the last block, dropping residual and MLP improves CSA"),
        higher(evidence, whole, maskclip, "CSA is better than MaskCLIP, residual and MLP kept",
               published="1.2"),
        higher(evidence, dropped, bare, "CSA is better than MaskCLIP, residual and MLP dropped",
               published="1.2"),
    ]  # fmt: skip


def _figures(evidence: Evidence) -> dict[str, Figure]:
    references = {"vanilla": spec(evidence, variant="vanilla")}
    references["MaskCLIP"] = spec(evidence, variant="maskclip", attention__residual=True)
    lines = _lines(evidence)
    figure = curves(evidence, {"CSA in the last n blocks": lines}, references)
    figure.set_label("CSA in the last n blocks; band: 95 % interval over photos")
    return {"layers": figure}


STUDY = Study(
    question="In how many of the last blocks should attention be changed, and should these blocks "
    "keep their residual connection and MLP?",
    claims=_claims,
    figures=_figures,
    order=3,
)

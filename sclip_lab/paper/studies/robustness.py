"""Does the gain of CSA survive blur, noise, compression and darkness?"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, csa_higher
from sclip_lab.paper.studies import Study
from sclip_lab.report import tables
from sclip_lab.report.curves import curves, pick
from sclip_lab.report.evidence import Evidence

WEIGHT = ".weight"
PREFIX = "protocol.views."
MEANING = {  # parameter of a change, and its unit
    "blur": ("sigma", "of sigma {} pixels"),
    "noise": ("sigma", "of sigma {} in 0 .. 255"),
    "jpeg": ("quality", "of quality {}"),
    "brightness": ("factor", "times {}"),
}
VARIANTS = ("vanilla", "maskclip", "csa")


def _condition(cell: pd.Series) -> tuple[str, int]:
    """Which change a cell's photos went through, and how strong: ("blur", 2), ("photo", 0)."""
    for key, value in cell.items():
        name = str(key).removeprefix(PREFIX).removesuffix(WEIGHT)
        if str(key).startswith(PREFIX) and str(key).endswith(WEIGHT) and value == 1:
            kind, _, strength = name.partition("_")
            return kind, int(strength or 0)
    return "photo", 0


def _grid(evidence: Evidence) -> dict[str, dict[str, dict[float, str]]]:
    """Change -> variant -> strength -> spec; strength 0 is the photo as it is."""
    lines: dict[str, dict[str, dict[float, str]]] = {}
    clean = {}
    for variant in VARIANTS:
        for spec, cell in pick(evidence, variant=variant).iterrows():
            kind, strength = _condition(cell)
            if kind == "photo":
                clean[variant] = str(spec)
            else:
                lines.setdefault(kind, {}).setdefault(variant, {})[float(strength)] = str(spec)
    for variants in lines.values():
        for variant, places in variants.items():
            if variant in clean:
                places[0.0] = clean[variant]
            variants[variant] = dict(sorted(places.items()))
    return lines


def _pairs(evidence: Evidence) -> dict[tuple[str, float], tuple[str, str]]:
    """Change and strength -> specs of CSA and of vanilla attention."""
    pairs = {}
    for kind, variants in _grid(evidence).items():
        csa, vanilla = variants.get("csa", {}), variants.get("vanilla", {})
        for strength in sorted(set(csa) & set(vanilla)):
            pairs[kind, strength] = csa[strength], vanilla[strength]
    return pairs


def _claims(evidence: Evidence) -> list[Claim]:
    pairs = {f"{kind}, strength {strength:g} of 3": pair
             for (kind, strength), pair in _pairs(evidence).items() if strength}  # fmt: skip
    return csa_higher(evidence, pairs, "CSA is better than vanilla attention")


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    grid, rows = _grid(evidence), []
    for (kind, strength), pair in _pairs(evidence).items():
        row = evidence.difference(*pair)
        scores = {name: evidence.score(places[strength]) for name, places in grid[kind].items()}
        rows.append(
            {"change": kind, "strength": int(strength), **scores, "gain": row["difference"]}
            | {"low": row["low"], "high": row["high"]}
        )
    caption = "mIoU x100, and the gain of CSA over vanilla with its 95 % interval"
    return {"robustness": tables.captioned(rows, caption, **tables.BOUNDS)} if rows else {}


def _strengths(evidence: Evidence, kinds: list[str]) -> list[str]:
    """What strengths 1 to 3 of each change mean, in words, from the parameters of the views."""
    lines = []
    for kind in kinds:
        parameter, words = MEANING.get(kind, ("", ""))
        columns = [f"{PREFIX}{kind}_{strength}.change.{parameter}" for strength in (1, 2, 3)]
        values = [evidence.cells[c].dropna().iloc[0] for c in columns if c in evidence.cells]
        if values:
            lines.append(f"{kind} {words.format(', '.join(f'{value:g}' for value in values))}")
    return lines


def _figures(evidence: Evidence) -> dict[str, Figure]:
    grid = _grid(evidence)
    panels = {f"{kind}, strength": variants for kind, variants in grid.items()}
    if not panels:
        return {}
    figure = curves(evidence, panels)
    figure.set_label(
        "changed photos by strength, 0 is the photo itself; band: 95 % interval. "
        f"Strengths 1 to 3: {'; '.join(_strengths(evidence, list(grid)))}"
    )
    return {"robustness": figure}


STUDY = Study(
    question="Does the gain of CSA survive when photos are blurred, noisy, compressed or dark?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    order=10,
)

"""What class names, prompts and thresholds are worth, beside the choice of attention."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.cards import EMBEDDED
from sclip_lab.paper.claims import Claim, csa_higher, higher, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import grouped
from sclip_lab.report.tables import captioned

CHANGED = ("vocabulary", "templates", "prob_threshold")
ONE_TOKEN = (
    "reads every word that it never saw as one and the same token, so synonyms and distractors are "
    "one more text to it, whatever they say, and score alike"
)


def _setting(cell: pd.Series, usual: pd.Series) -> str:
    """What differs from the cell ``usual``, in words; "as published" if nothing does."""
    parts = []
    for name in CHANGED:
        value, before = cell.get(f"protocol.{name}"), usual.get(f"protocol.{name}")
        if str(value) != str(before):
            parts.append(f"{name.replace('prob_', '')} {value}")
    return ", ".join(parts) or "as published"


def _grid(evidence: Evidence) -> dict[str, dict[str, str]]:
    """Setting -> variant -> spec."""
    grid: dict[str, dict[str, str]] = {}
    for variant, rows in evidence.cells.groupby("variant", sort=False):
        for spec, cell in rows.iterrows():
            grid.setdefault(_setting(cell, rows.iloc[0]), {})[str(variant)] = str(spec)
    return grid


def _claims(evidence: Evidence) -> list[Claim]:
    grid = _grid(evidence)
    usual = grid.pop("as published", {})
    csa, vanilla = usual.get("csa"), usual.get("vanilla")
    if not csa or not vanilla or not grid:
        return [missing("The vocabulary matters more than attention", "cells are missing")]
    both = {s: v for s, v in grid.items() if {"csa", "vanilla"} <= v.keys()}
    pairs = {setting: (v["csa"], v["vanilla"]) for setting, v in both.items()}
    claims = csa_higher(evidence, pairs, "CSA stays better than vanilla attention")
    changed = {s: v["csa"] for s, v in grid.items() if "csa" in v}
    worst = min(changed, key=lambda setting: evidence.score(changed[setting]))
    text = "The worst names, prompts or threshold cost CSA more than vanilla attention in its place"
    family = [(vanilla, spec) for spec in changed.values()]
    names = {changed[worst]: f"csa, {worst},", vanilla: "vanilla, as published,"}
    return [*claims, higher(evidence, vanilla, changed[worst], text, family, names=names)]


def _figures(evidence: Evidence) -> dict[str, Figure]:
    figure = grouped(evidence, _grid(evidence))
    words = ["names, prompts and thresholds, each changed alone from the published setting"]
    if EMBEDDED in set(evidence.df["backbone"].astype(str)):
        words.append(f"{EMBEDDED} {ONE_TOKEN}")
    figure.set_label("; ".join(words))
    return {"vocabulary": figure}


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    rows = [
        {"setting": setting, **{name: evidence.score(spec) for name, spec in variants.items()}}
        for setting, variants in _grid(evidence).items()
    ]
    return {"vocabulary": captioned(rows, "mIoU x100")}


STUDY = Study(
    question="How much do class names, prompt templates and thresholds move the score, compared "
    "with the choice of attention?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    order=9,
)

"""Studies to sections of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.studies import Study
from sclip_lab.report import escaping, verdicts
from sclip_lab.report.found import Found
from sclip_lab.report.page import Section

MARKDOWN = """# Verdicts

Generated: `sclip-lab paper` writes verdicts.md beside its index.html, and `make verdicts` copies it
here. Scores are mIoU x100, with 95 % intervals of differences.
"""
EMBEDDED = (
    "This is the embedded world: patchwork_vit, a small CLIP trained on procedural scenes, on such "
    "scenes. It is a model organism. What it shows is no statement about CLIP."
)
RANDOM = "Weights are random: pictures and tables show the layout, numbers say nothing."


def section(name: str, study: Study, found: Found, missing: Sequence[str] = ()) -> Section:
    """One study, judged and drawn for every setting of its cells.

    Args:
        name: the study's. found: its cells.
        missing: what could not be evaluated, and how to get it; one line each.
    """
    notes, judged = list(missing), []
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    parts = list(study.settings(found))
    for setting, part in parts:
        part = part.on_common_images()
        tail = f"_{setting.replace(', ', '_')}" if len(parts) > 1 else ""
        seen = [text for text in (setting, part.part) if text]
        judged += [replace(v, setting=", ".join(seen)) for v in study.verdicts(part)]
        tables |= {f"{key}{tail}": table for key, table in study.tables(part).items()}
        figures |= {f"{key}{tail}": figure for key, figure in study.figures(part).items()}
        if part.part:
            notes.append(f"Scores are over {part.part}.")
        images = part.df.groupby("dataset", observed=True)["image"].nunique()
        counted = ", ".join(f"{count} images of {dataset}" for dataset, count in images.items())
        notes.append(f"{setting or 'all'}: {part.df['spec'].nunique()} cells, {counted}.")
    own = f"verdicts_{name}"
    tables[own] = verdict_table({name: judged})
    title = name.replace("_", " ")
    return Section(name, title, study.question, notes, judged, tables, figures, [own])


def verdict_table(judged: Mapping[str, Sequence[verdicts.Verdict]]) -> pd.DataFrame:
    """All verdicts of several studies, one row each."""
    tables = [verdicts.table(list(rows), study) for study, rows in judged.items()]
    return pd.concat(tables, ignore_index=True) if tables else verdicts.table([])


def departures(judged: Mapping[str, Sequence[verdicts.Verdict]]) -> str:
    """Where results are surely other than published, in a sentence."""
    found = [
        f"{v.claim} ({v.setting})" if v.setting else v.claim
        for rows in judged.values()
        for v in rows
        if v.departs
    ]
    return (
        f"{len(found)} published claims do not hold here: {'; '.join(found)}."
        if found
        else "No published claim is refuted here."
    )


def overview(sections: Sequence[Section]) -> Section:
    """The first section: what became of each claim."""
    judged = {s.name: s.verdicts for s in sections if s.verdicts}
    table = verdict_table(judged)
    told = [replace(v, claim=f"{study}: {v.claim}") for study, rows in judged.items() for v in rows]
    counts = table["verdict"].value_counts()
    text = ", ".join(f"{answer}: {count}" for answer, count in counts.items())
    notes = [f"{len(table)} claims; {text}.", departures(judged), verdicts.RULE, verdicts.LEGEND]
    question = "What became of each claim?"
    tables = {"verdicts": table}
    return Section(
        "verdicts", "all verdicts", question, notes, told, tables, files_only=["verdicts"]
    )


def markdown(sections: Sequence[Section], embedded: bool = False) -> str:
    """docs/verdicts.md: the verdicts of all studies as a table.

    Args:
        embedded: the network is the embedded one, and the text says so.
    """
    judged = {s.name: s.verdicts for s in sections if s.verdicts}
    notes = [*([EMBEDDED] if embedded else []), departures(judged), verdicts.RULE, verdicts.LEGEND]
    head = "| study | claim | verdict | published | because | setting |"
    lines = [MARKDOWN, *(f"{note}\n" for note in notes), head, "|---|---|---|---|---|---|"]
    for study, rows in judged.items():
        for v in rows:
            cells = [study, v.claim, f"**{v.answer}**", v.beside_published, v.why, v.setting]
            lines.append("| " + " | ".join(map(escaping.markdown, cells)) + " |")
    return "\n".join(lines) + "\n"

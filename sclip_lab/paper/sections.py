"""Turn studies into sections of a report: draw each by itself, judge all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper import cards, published, questions, verdicts
from sclip_lab.paper.claims import Claim
from sclip_lab.paper.studies import Study
from sclip_lab.paper.verdicts import FAILS, HOLDS, TESTED, Verdict
from sclip_lab.report import tables
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.page import Row, Section

MARKDOWN = """# Verdicts

Generated: `sclip-lab paper` writes verdicts.md beside its index.html, and `make verdicts` copies it
here. Scores are mIoU x100, with 95 % intervals of differences.
"""
EMBEDDED = (
    f"{cards.EMBEDDED} was trained so that the paper's order appears: it tests the laboratory, not "
    "the paper. It is a small CLIP trained on procedural scenes, and all numbers here are of such "
    "scenes. Nothing here is a statement about CLIP."
)
# Columns of verdicts in a page -> columns of `Verdict.cells`.
COLUMNS = {name: name for name in ("study", "claim", "verdict", "standing", "published")}
COLUMNS |= {"because": "why", "setting": "setting"}
RANDOM = "Weights are random: pictures and tables show the layout, numbers say nothing."


@dataclass(frozen=True)
class Drawn:
    """A study's tables, figures and claims, before the claims of the page are judged.

    Attributes:
        missing: what could not be evaluated, and how to get it; one line each.
        parts: the study's cells by setting.
    """

    name: str
    study: Study
    notes: Sequence[str] = ()
    missing: Sequence[str] = ()
    claims: Sequence[Claim] = ()
    parts: Mapping[str, Evidence] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


def draw(name: str, study: Study, evidence: Evidence | None, missing: Sequence[str] = ()) -> Drawn:
    """One study, drawn for every setting of its cells.

    Args:
        evidence: the study's cells; None if there are none.
        missing: what could not be evaluated, and how to get it; one line each.
    """
    if evidence is None:
        return Drawn(name, study, missing=missing)
    notes: list[str] = []
    claims: list[Claim] = []
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    parts = {setting: part.on_common_images() for setting, part in study.settings(evidence)}
    for setting, part in parts.items():
        tail = f"_{setting.replace(', ', '_')}" if len(parts) > 1 else ""
        for claim in study.claims(part):
            place = [text for text in (setting, claim.setting, part.part) if text]
            claims.append(replace(claim, study=name, setting=", ".join(place)))
        study_tables = study.tables(part) if study.tables else {name: published.scores(part)}
        tables |= {f"{key}{tail}": table for key, table in study_tables.items()}
        figures |= {f"{key}{tail}": figure for key, figure in study.figures(part).items()}
        if part.part:
            notes.append(f"Scores are over {part.part}.")
        images = part.df.groupby("dataset", observed=True)["image"].nunique()
        counted = ", ".join(f"{count} images of {dataset}" for dataset, count in images.items())
        notes.append(f"{setting or 'all'}: {part.df['spec'].nunique()} cells, {counted}.")
    return Drawn(name, study, notes, missing, claims, parts, tables, figures)


def sections(
    page: Sequence[Drawn], family: str = "claim", embedded: bool = False
) -> tuple[list[Section], list[Verdict]]:
    """The sections of a page (first the ten questions, then all verdicts), and the verdicts.

    Args:
        page: drawn studies. family: see `verdicts.judge`. embedded: the network is patchwork_vit.
    """
    judged = verdicts.judge([claim for study in page for claim in study.claims], family)
    of_studies = [
        _section(study, [v for v in judged if v.claim.study == study.name]) for study in page
    ]
    first = Section(
        "questions",
        "ten questions",
        "What does a careful reader of the SCLIP paper ask, and what do these results answer?",
        rows=questions.rows({study.name: study for study in page}, embedded),
    )
    return [first, _overview(page, judged), *of_studies], judged


def _section(study: Drawn, judged: Sequence[Verdict]) -> Section:
    table = f"verdicts_{study.name}"
    notes = [*study.missing, *study.notes, *_left_out([study])]
    return Section(
        study.name,
        study.name.replace("_", " "),
        study.study.question,
        notes,
        [_row(verdict) for verdict in judged],
        {**study.tables, table: verdicts.table(judged)} if study.parts else {},
        [lambda: study.figures],
        [table],
    )


def _overview(page: Sequence[Drawn], judged: Sequence[Verdict]) -> Section:
    """The section with the verdict on every claim of a page."""
    rows = [_row(verdict, with_study=True) for verdict in judged]
    tables = {"verdicts": verdicts.table(judged)}
    notes = [*_notes(judged), *_left_out(page)]
    question = "What became of each claim?"
    return Section(
        "verdicts", "all verdicts", question, notes, rows, tables, files_only=["verdicts"]
    )


def _notes(judged: Sequence[Verdict]) -> list[str]:
    return [verdicts.counts(judged), verdicts.published(judged), verdicts.RULE, verdicts.LEGEND]


def _left_out(page: Sequence[Drawn]) -> list[str]:
    same = [claim for study in page for claim in study.claims if claim.same]
    lines = dict.fromkeys(f"{claim.text} ({claim.same})" for claim in same)
    return [f"Left out, for its two sides cannot differ: {line}." for line in lines]


def _row(verdict: Verdict, with_study: bool = False) -> Row:
    marks = {HOLDS: "holds", FAILS: "fails"} if verdict.standing == TESTED else {}
    shown = verdict.cells if with_study else {**verdict.cells, "study": ""}
    cells = {column: shown[name] for column, name in COLUMNS.items()}
    classes = {"verdict": f"answer {marks.get(verdict.answer, 'open')}"}
    classes |= {"published": "departs"} if verdict.departs else {}
    links = {"study": f"#{verdict.claim.study}"} if with_study else {}
    return Row(cells, classes, links)


def markdown(page: Sequence[Drawn], judged: Sequence[Verdict], embedded: bool = False) -> str:
    """The text of docs/verdicts.md: all studies' verdicts as a table. Args as in `sections`."""
    notes = [*([EMBEDDED] if embedded else []), *_notes(judged), *_left_out(page)]
    rows = [{**verdict.cells, "verdict": f"**{verdict.answer}**"} for verdict in judged]
    text = tables.markdown(
        list(COLUMNS), [[row[name] for name in COLUMNS.values()] for row in rows]
    )
    return "\n".join([MARKDOWN, *(f"{note}\n" for note in notes), text])

"""Ten questions that a careful reader of the SCLIP paper asks, answered in numbers by studies.

``Study.answers`` says which questions a study answers, and how: question -> function of the study's
cells that returns one or two sentences, or "" where it lacks a cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sclip_lab.paper.claims import random_seed
from sclip_lab.paper.studies import load, names
from sclip_lab.report.page import Row

if TYPE_CHECKING:
    from sclip_lab.paper.sections import Drawn

QUESTIONS = {
    "localises": "Why does correlative attention localise?",
    "projection": "Why does any projection do?",
    "tuning": "What does it cost to tune nothing?",
    "alternatives": "What do simpler alternatives lack?",
    "transformation": "What shows the transformation of attention?",
    "gains": "Where are gains largest?",
    "foundation": "What does it say of foundation models?",
    "preprocessing": "What does pre-processing do?",
    "failures": "Where do predictions fail?",
    "vits": "Which other ViTs gain?",
}
WORLD = "On the embedded world, which tests the laboratory and not the paper: "


def rows(page: Mapping[str, Drawn], embedded: bool = False) -> list[Row]:
    """One row per question: the answer of each study of the page that has one, or what is missing.

    Args:
        page: studies by name. embedded: the network is patchwork_vit, and each answer says so.
    """
    by_name = {name: load(name) if name not in page else page[name].study for name in
             dict.fromkeys([*names(), *page])}  # fmt: skip
    answered = []
    for number, (key, question) in enumerate(QUESTIONS.items(), start=1):
        answering = [name for name, study in by_name.items() if key in study.answers]
        on_page = [name for name in answering if name in page]
        answers = {name: _answer(page[name], key) for name in on_page}
        shown = next((name for name in on_page if page[name].parts), on_page[0] if on_page else "")
        text = " ".join(filter(None, answers.values()))
        if not on_page:
            text = f"not asked here: sclip-lab paper {' '.join(answering)}"
        elif embedded:
            text = WORLD + text
        cells = {"": f"{number}", "question": question, "answer": text, "study": shown}
        answered.append(Row(cells, links={"study": f"#{shown}"} if shown else {}))
    return answered


def _answer(study: Drawn, key: str) -> str:
    """A study's answer in each of its settings, or what the study lacks."""
    parts = []
    for setting, evidence in study.parts.items():
        seeds = [
            seed for s in evidence.cells.index if (seed := random_seed(evidence, s)) is not None
        ]
        if len(seeds) == len(evidence.cells):
            text = f"no answer, weights are random (seed {seeds[0]})."
        else:
            text = study.study.answers[key](evidence) or "no answer, cells are missing."
        parts.append(f"{setting}: {text}" if len(study.parts) > 1 else text)
    if not parts:
        return f"no answer here: {'; '.join(study.missing) or 'nothing was evaluated'}."
    return " ".join(parts)

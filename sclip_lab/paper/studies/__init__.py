"""The paper as studies: this folder is their registry.

A study is one file here and ``conf/experiment/<name>.yaml``: a question, a sweep, claims, tables
and figures as functions of the results. No other file names a study. A plug-in adds studies of its
own: a module that the user allows has a dictionary ``STUDIES``, and the plug-in's conf/experiment
has the sweeps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.core import functions
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.paper.claims import Claim
from sclip_lab.report.evidence import Evidence


@dataclass(frozen=True)
class Study:
    """What a file of this folder defines as ``STUDY``.

    Attributes:
        question: what is asked, one sentence.
        claims: sentences that the results support or refute.
        figures, tables: by file name. A figure's caption is its label, a table's is in its
            ``attrs``. A study without ``tables`` shows its scores beside published numbers.
        photos: names of images whose predictions the study wants to show.
        answers: one or two sentences by question, see `sclip_lab.paper.questions`.
        across: "backbone" or "dataset" if each call of ``claims``, ``figures``, ``tables`` and
            ``answers`` is to see all of them; by default a call sees one of each.
        order: place in the report.
    """

    question: str
    claims: Callable[[Evidence], list[Claim]]
    figures: Callable[[Evidence], Mapping[str, Figure]] = lambda _: {}
    tables: Callable[[Evidence], dict[str, pd.DataFrame]] | None = None
    photos: Callable[[Evidence], list[str]] = lambda _: []
    answers: Mapping[str, Callable[[Evidence], str]] = field(default_factory=dict)
    across: tuple[str, ...] = ()
    order: int = 50

    def settings(self, evidence: Evidence) -> Iterable[tuple[str, Evidence]]:
        """Yield the parts that are judged apart, each with a name; "" if there is one part."""
        apart = [name for name in ("backbone", "dataset") if name not in self.across]
        if not apart:
            yield "", evidence
            return
        table = evidence.df[apart].astype(str).drop_duplicates()
        for row in table.to_dict("records"):
            yield ", ".join(row.values()), evidence.only(**{str(k): v for k, v in row.items()})


def names() -> list[str]:
    """The names of all studies, in the order of the report."""
    studies = [*_files(), *_of_plugins()]
    return sorted(studies, key=lambda name: (load(name).order, name))


def load(name: str) -> Study:
    """A study by its file's name, or by its name in a plug-in.

    Raises:
        LabError: there is none (did you mean), or a plug-in's is no `Study`.
    """
    if name in _files():
        study = importlib.import_module(f"{__name__}.{name}").STUDY
    else:
        studies = _of_plugins()
        if name not in studies:
            raise unknown("study", name, [*_files(), *studies])
        study = studies[name]
    if not isinstance(study, Study):
        raise LabError(f"study '{name}' is a {type(study).__name__}, not a sclip_lab Study")
    return study


def chosen(requested: Sequence[str]) -> dict[str, Study]:
    """The requested studies by name; all studies if none is requested."""
    return {name: load(name) for name in requested or names()}


def _files() -> list[str]:
    return [p.stem for p in Path(__file__).parent.glob("*.py") if p.stem[0] != "_"]


def _of_plugins() -> dict[str, Study]:
    """The studies of modules that the user allowed, except those with a name of this package's."""
    studies: dict[str, Study] = {}
    for module in functions.allowed():
        studies |= getattr(importlib.import_module(module), "STUDIES", {})
    return {name: study for name, study in studies.items() if name not in _files()}


def of_gain(part: float, gain: float) -> str:
    """A part of CSA's gain over vanilla, in words; both are fractions."""
    return f"{part / gain:.2f} of the gain" if gain > 0 else f"{100 * part:.1f} without a gain"

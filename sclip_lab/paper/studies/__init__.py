"""The paper as studies: this folder is their registry.

A study is one file here and ``conf/experiment/<name>.yaml``: a question, a sweep, tables and
figures, and claims as functions of the results. Nothing else knows it; a new study is two files.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.core.errors import unknown
from sclip_lab.report.found import Found
from sclip_lab.report.verdicts import Verdict


def no_figures(found: Found) -> dict[str, Figure]:
    """Nothing to draw."""
    return {}


def no_tables(found: Found) -> dict[str, pd.DataFrame]:
    """No further table."""
    return {}


def no_photos(found: Found) -> list[str]:
    """No picture beyond those that the sweep keeps."""
    return []


@dataclass(frozen=True)
class Study:
    """What a file of this folder defines as ``STUDY``.

    Attributes:
        question: what is asked, one sentence.
        verdicts: the claims, judged.
        figures, tables: by file name; captions are a figure's and a table's own.
        photos: names of images whose predictions it wants to show.
        across: columns that vary within one call; other backbones and data sets are called apart.
        order: place in the report.
    """

    question: str
    verdicts: Callable[[Found], list[Verdict]]
    figures: Callable[[Found], Mapping[str, Figure]] = no_figures
    tables: Callable[[Found], dict[str, pd.DataFrame]] = no_tables
    photos: Callable[[Found], list[str]] = no_photos
    across: tuple[str, ...] = ()
    order: int = 50

    def settings(self, found: Found) -> Iterable[tuple[str, Found]]:
        """The parts that are judged apart, each with its name."""
        apart = [name for name in ("backbone", "dataset") if name not in self.across]
        if not apart:
            yield "", found
            return
        table = found.df[apart].astype(str).drop_duplicates()
        for row in table.to_dict("records"):
            yield ", ".join(row.values()), found.only(**{str(k): v for k, v in row.items()})


def names() -> list[str]:
    """All studies, in the order of the report."""
    known = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem[0] != "_")
    return sorted(known, key=lambda name: (load(name).order, name))


def load(name: str) -> Study:
    """A study by its file's name.

    Raises:
        LabError: there is none (did you mean).
    """
    if not (Path(__file__).parent / f"{name}.py").is_file():
        raise unknown("study", name, names())
    study = importlib.import_module(f"{__name__}.{name}").STUDY
    assert isinstance(study, Study)
    return study


def chosen(wanted: Sequence[str]) -> dict[str, Study]:
    """Studies by name; all for none."""
    return {name: load(name) for name in wanted or names()}

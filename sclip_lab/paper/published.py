"""Published numbers: which one belongs beside a score of ours, and how far the two are apart.

``paper_numbers.csv`` has the columns method; attention: our label of the same variant, empty if
there is none; backbone: open_clip's architecture without "-quickgelu"; pretrained: beginning of the
tag; dataset; protocol: our preset's name where there is one, "sclip/paper" for the SCLIP paper's
own; metric; value: a fraction; source: its key, several separated by ";"; mark: F read in primary
code, README, issue or figure, 2 second-hand, C computed from F or 2, G a guess; note.
``paper_sources.csv`` says what the keys stand for. A number that was not read in the paper is never
called the paper's: see `kind`.

A protocol's yaml lists the scores that it has to reproduce under ``expected``, one entry for each
variant and network::

    expected:
      - {attention: csa, backbone: ViT-B-16, pretrained: openai, tolerance: 0.002,
         source: SCLIP README, miou: {voc21: 0.5963}}

``tolerance`` is the largest difference that counts as reproduced; null: no gate. The entries are no
part of a protocol's identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.core.errors import LabError
from sclip_lab.report import tables
from sclip_lab.report.evidence import Evidence

FILE = Path(__file__).resolve().parent / "paper_numbers.csv"
SOURCES = FILE.with_name("paper_sources.csv")
SCLIP = ("sclip/paper", "sclip")  # protocols of the paper and of its code
KINDS = {
    "2": "second-hand note, unverified",
    "C": "computed from published numbers",
    "G": "a guess",
}
REFERENCE = {"dataset": "voc21", "backbone": "ViT-B-16"}
NOTE = (
    "published: the number of the same variant, network and data set; where there is none, the one "
    "of ViT-B/16 on VOC21, which is no target for the score beside it"
)
OWN = "published: the number of the same variant, network and whole data set"
ENTRY = ["attention", "backbone", "pretrained", "tolerance", "source", "miou"]


@cache  # once, not for every cell of a table
def read() -> pd.DataFrame:
    """The rows of ``paper_numbers.csv``, with the columns that the module's docstring lists."""
    return pd.read_csv(FILE, keep_default_na=False, dtype={"mark": str})


@cache
def sources() -> pd.DataFrame:
    """What source keys stand for: key (index), kind, what."""
    return pd.read_csv(SOURCES, keep_default_na=False).set_index("key")


def kind(source: str, mark: str) -> str:
    """The kind of source of one number, in words: what a table prints beside it.

    >>> kind("SC", "F"), kind("PN-S;TRI", "2")
    ('README of the official code', 'second-hand note, unverified')
    """
    if mark in KINDS:
        return KINDS[mark]
    kinds = sources()["kind"]
    return "; ".join(dict.fromkeys(str(kinds.get(key, key)) for key in source.split(";") if key))


# ---------------------------------------------------------------- beside a score of ours


def find(row: pd.Series, config: dict[str, Any] | None = None) -> pd.Series | None:
    """The published mIoU of a variant: a row of `read`, or None.

    A number belongs to a cell if variant, backbone, weights and data set agree. Several can, since
    protocols differ between repositories: see `_best`. Show the number's protocol with it.

    Args:
        row: of a `results.summary`. config: the cell's configuration, flat; None if unknown.
    """
    network = str(row["backbone"]).removesuffix("-quickgelu")
    same = _mious(row["attention"], network, row["dataset"])
    if config is not None:
        same = same[[_same_weights(config, tag) for tag in same["pretrained"]]]
    return _best(same, row["protocol"])


def _mious(label: str, network: str, dataset: str) -> pd.DataFrame:
    numbers = read()
    sought = {"attention": label, "backbone": network, "dataset": dataset, "metric": "miou"}
    return numbers[(numbers[list(sought)] == list(sought.values())).all(axis=1)]


def _best(numbers: pd.DataFrame, protocol: str) -> pd.Series | None:
    """Choose a number: preferably one of ``protocol``, among these one read at first hand (mark F),
    among these one of SCLIP's protocols, and then the first; None where there is none."""
    return min(
        (number for _, number in numbers.iterrows()),
        key=lambda number: (
            number["protocol"] != protocol,
            number["mark"] != "F",
            number["protocol"] not in SCLIP,
        ),
        default=None,
    )


def _same_weights(config: dict[str, Any], tag: str) -> bool:
    """Whether a cell has the published weights ``tag``. Random weights never are these; a local
    checkpoint is taken for the published weights of its architecture."""
    pretrained = config.get("backbone.pretrained")
    if pretrained is None:
        return config.get("backbone.checkpoint") is not None
    return str(pretrained).startswith(tag)


def scores(evidence: Evidence, elsewhere: bool = True) -> pd.DataFrame:
    """`report.tables.cells` with published numbers: one row per cell.

    Args:
        evidence: the cells.
        elsewhere: where no number fits, show that of ViT-B/16 on VOC21, which is no target.

    Columns added where a number is published: published, published on, source, difference, verdict:
    "agrees" where the published number lies in our interval, else "above" or "below", as our score
    lies. Difference and verdict are empty where the published number is of another network or data
    set, and the verdict also where there is no interval.
    """
    shown, table = tables.cells(evidence), evidence.summary
    configs = table.attrs.get("configs", {})
    cells = evidence.cells.loc[table["spec"].astype(str).to_list()]
    rows: list[list[Any]] = []
    for (_, row), (_, cell) in zip(table.iterrows(), cells.iterrows(), strict=True):
        plain = _as_published(cell)
        number = find(row, configs.get(row["spec"])) if plain and _whole(cell) else None
        other = reference(str(row["attention"])) if elsewhere and plain else None
        if number is not None:
            value = float(number["value"])
            inside = row["low"] <= value <= row["high"]
            verdict = "agrees" if inside else "above" if row["miou"] > value else "below"
            verdict = "" if np.isnan(row["low"]) else verdict
            words = kind(number["source"], number["mark"])
            rows.append([value, row["dataset"], words, row["miou"] - value, verdict])
        elif other is not None:
            words = kind(other["source"], other["mark"])
            rows.append([other["value"], REFERENCE["dataset"], words, np.nan, ""])
        else:
            rows.append([np.nan, "", "", np.nan, ""])
    columns = ["published", "published on", "source", "difference", "verdict"]
    added = pd.DataFrame(rows, columns=columns, index=shown.index)
    if added["published"].isna().all():
        return shown
    added = added if added["verdict"].any() else added.drop(columns=["difference", "verdict"])
    joined = pd.concat([shown, added], axis=1)
    note = NOTE if elsewhere else OWN
    joined.attrs = {**shown.attrs, "caption": f"{shown.attrs['caption']}; {note}"}
    return joined


def _whole(cell: pd.Series) -> bool:
    """Whether a cell is over the photos that papers report on: no selection, no train split."""
    chosen, split = (cell.get(f"dataset.{name}") for name in ("selection", "split"))
    return not (isinstance(chosen, str) and chosen) and split != "train"


def _as_published(cell: pd.Series) -> bool:
    """Whether nothing but attention was changed: no refinement, readout or view of a cell's own."""
    parts = ("protocol.refinement.", "protocol.readout.", "protocol.views.")
    return not any(
        str(name).startswith(parts) and value == value and value is not None
        for name, value in cell.items()
    )


def reference(label: str) -> pd.Series | None:
    """The published number of a variant on ViT-B/16 and VOC21 under SCLIP's protocols, or None."""
    numbers = _mious(label, REFERENCE["backbone"], REFERENCE["dataset"])
    return _best(numbers[numbers["protocol"].isin(SCLIP)], "")


# ---------------------------------------------------------------- what a protocol has to reproduce


def reproduced(ours: float, theirs: float, tolerance: float | None) -> str:
    """ "within" if two scores differ by ``tolerance`` at most, else "outside"; "no gate" without a
    tolerance, where the published score is not trusted enough to fail by."""
    if tolerance is None:
        return "no gate"
    # Differences of decimal fractions are not exact.
    return "within" if abs(ours - theirs) <= tolerance + 1e-12 else "outside"


def against_expected(spec: Any, miou: float, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each score that is expected of a cell: ours, theirs, difference, verdict.

    Args:
        spec: the cell. A local checkpoint is taken for the weights that an entry names; random
            weights match nothing, and a network with GELU is not OpenAI's.
        miou: the cell's score, a fraction.
        entries: ``expected`` of the cell's protocol.

    Raises:
        LabError: an entry lacks a key.
    """
    weights, dataset, lines = spec.backbone.description, spec.dataset.name, []
    for entry in entries:
        missing = [key for key in ENTRY if key not in entry]
        if missing:
            raise LabError(f"protocol.expected: {dict(entry)} lacks {', '.join(missing)}")
        pretrained, tolerance = entry["pretrained"], entry["tolerance"]
        network = spec.backbone.name.removesuffix("-quickgelu")
        if (entry["attention"], entry["backbone"]) != (spec.label, network):
            continue
        if weights.get("checkpoint") is None and weights.get("pretrained") != pretrained:
            continue
        if spec.backbone.activation == "GELU" and pretrained == "openai":
            continue
        if (theirs := entry["miou"].get(dataset)) is not None:
            gate = "" if tolerance is None else f", tolerance {100 * tolerance:.2f}"
            lines.append(
                f"ours {100 * miou:.2f}, theirs {100 * theirs:.2f} ({entry['source']}), difference "
                f"{100 * (miou - theirs):+.2f}{gate}: {reproduced(miou, theirs, tolerance)}"
            )
    return lines

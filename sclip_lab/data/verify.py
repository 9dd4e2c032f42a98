"""Check that a data set on disk is what its yaml says. Every sample is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.data.base import Dataset, Sample, whole_counts
from sclip_lab.data.census import Census
from sclip_lab.data.file_dataset import FileDataset
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary

LISTED = 20  # problems of one kind


@dataclass
class Report:
    """The result of a check."""

    census: Census
    problems: list[str] = field(default_factory=list)  # why data are unusable or incomplete
    warnings: list[str] = field(default_factory=list)  # what to know before quoting a number
    facts: list[str] = field(default_factory=list)  # counts and shares
    samples: list[Sample] = field(default_factory=list)  # a few of all, for a contact sheet


def verify(data: Dataset, faults: Sequence[str] = (), pictures: int = 0) -> Report:
    """Read every sample and compare counts, ids, sizes, pairs and names.

    ``data`` was built with the list ``faults``, so that a broken sample does not stop the check.
    The report holds up to ``pictures`` samples for a contact sheet.
    """
    report = Report(Census(data.vocabulary, data.ignore_index), problems=list(faults))
    report.warnings += vocabulary_faults(data.vocabulary)
    report.facts.append(
        f"{len(data)} samples, {data.vocabulary.num_classes} classes "
        f"(vocabulary '{data.vocabulary.name}')"
    )
    expected = whole_counts(getattr(data, "expected", None))
    if expected and len(data) not in expected and not data.selection:
        whole = " or ".join(map(str, expected))
        report.problems.append(f"{len(data)} samples, the whole data set has {whole}")
    if isinstance(data, Folder):
        report.problems += [f"mask without photo: {mask}" for mask in data.masks_without_photo]
    spread = np.linspace(0, len(data) - 1, min(pictures, len(data))).round()
    pictured = set(spread.astype(int).tolist())
    for index in Bar(range(len(data)), desc=f"reading {data.name}", unit="sample", delay=1):
        try:
            sample = data[index]
        except LabError as error:
            report.problems.append(str(error))
            continue
        report.census.add(sample.mask)
        if index in pictured:
            report.samples.append(sample)
    if isinstance(data, FileDataset) and report.census.only_first_class:
        try:
            data.check_masks()
        except LabError as error:
            report.problems.append(str(error))
    report.facts += report.census.facts()
    report.warnings += report.census.warnings(getattr(data, "turned", ()))
    return report


def listed(texts: Sequence[str]) -> list[str]:
    """Return the first twenty texts of each kind, and a line that counts its other texts. Texts of
    one kind begin alike when paths and numbers are left out."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        # Words without digits and paths: they say what is wrong, not where.
        kinds[" ".join(word for word in text.split() if word.isalpha())[:60]].append(text)
    lines = []
    for kind in kinds.values():
        lines += kind[:LISTED]
        if len(kind) > LISTED:
            lines.append(f"... and {len(kind) - LISTED} more like the last")
    return lines


def vocabulary_faults(vocabulary: Vocabulary) -> list[str]:
    """Describe names that stand for two classes, and blanks behind a name."""
    # A synonym of background that is a class too costs that class its pixels: the lower id wins.
    places: dict[str, list[int]] = defaultdict(list)
    for query, index in zip(vocabulary.queries, vocabulary.query_classes, strict=True):
        places[query.strip().lower()].append(index)
    faults = [
        f"vocabulary '{vocabulary.name}': '{name}' names classes {' and '.join(map(str, ids))}"
        for name, ids in places.items()
        if len(ids) > 1
    ]
    blank = [query for query in vocabulary.queries if query != query.strip()]
    return faults + [f"vocabulary '{vocabulary.name}': blank behind {name!r}" for name in blank]

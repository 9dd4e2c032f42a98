"""Does a data set on disk hold what its yaml says? Everything found at once, not the first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary


@dataclass
class Report:
    """What was found.

    Attributes:
        problems: the data are not usable, or not the whole data set.
        warnings: usable, and worth knowing before a number is quoted.
        facts: counts and shares.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def verify(data: Dataset) -> Report:
    """Read every sample; compare counts, ids, sizes, pairs and names."""
    report = Report(warnings=vocabulary_faults(data.vocabulary))
    report.facts.append(
        f"{len(data)} samples, {data.vocabulary.num_classes} classes "
        f"(vocabulary '{data.vocabulary.name}')"
    )
    if isinstance(data, Folder):
        if data.expected and len(data) not in data.expected:
            whole = " or ".join(map(str, data.expected))
            report.problems.append(f"{len(data)} samples, the whole data set has {whole}")
        if alone := data.masks_without_photo():
            listed = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            report.problems.append(f"{len(alone)} masks have no photo: {listed}")
        try:
            data.refuse_ignored_object()
        except LabError as error:
            report.problems.append(str(error))
    pixels = np.zeros(256, np.int64)
    for index in tqdm(range(len(data)), desc=f"reading {data.name}", unit="sample", delay=2):
        try:
            mask = data[index].mask
        except LabError as error:
            report.problems.append(str(error))
            continue
        pixels += np.bincount(mask.ravel(), minlength=256)
    if total := pixels.sum():
        absent = [n for n, p in zip(data.vocabulary.names, pixels, strict=False) if p == 0]
        share = pixels[data.ignore_index] / total
        report.facts.append(f"{share:.1%} of pixels are ignored")
        if absent:
            report.warnings.append(
                f"{len(absent)} classes occur in no mask: {', '.join(absent[:10])}"
                f"{', ...' if len(absent) > 10 else ''}"
            )
    return report


def vocabulary_faults(vocabulary: Vocabulary) -> list[str]:
    """Names that stand for two classes, and blanks behind a name, in words.

    A name in the background's list and again as a class costs that class its pixels: the two
    queries are equal, and the lower id wins.
    """
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
